"""CLIP's text transformer under the names SD1 checkpoints use (`text_model.*`)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.shape import Shape


class Embeddings(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.token_embedding = nn.Embedding(shape.vocab, shape.context)
        self.position_embedding = nn.Embedding(shape.text_length, shape.context)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for m in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))  # CLIP's quick GELU


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.self_attn = SelfAttention(shape.context, shape.text_heads)
        self.layer_norm1 = nn.LayerNorm(shape.context)
        self.mlp = MLP(shape.context, shape.context * shape.text_expansion)
        self.layer_norm2 = nn.LayerNorm(shape.context)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Layers(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.text_layers))


class TextModel(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(shape), Layers(shape)
        self.final_layer_norm = nn.LayerNorm(shape.context)


class TextEncoder(nn.Module):
    """Token ids [B, 77] to hidden states [B, 77, context]: the last ones, after the final layer norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.text_model = TextModel(shape)
        self._initialise()

    def _initialise(self) -> None:
        # CLIP's own scales: residual branches shrink with depth so that their sum does not grow.
        width, depth = self.shape.context, self.shape.text_layers
        nn.init.normal_(self.text_model.embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_model.embeddings.position_embedding.weight, std=0.01)
        for layer in self.text_model.encoder.layers:
            attention, branch = layer.self_attn, width**-0.5 * (2 * depth) ** -0.5
            for module, std in (
                (attention.q_proj, width**-0.5),
                (attention.k_proj, width**-0.5),
                (attention.v_proj, width**-0.5),
                (attention.out_proj, branch),
                (layer.mlp.fc1, (2 * width) ** -0.5),
                (layer.mlp.fc2, branch),
            ):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        model = self.text_model
        x = model.embeddings(tokens)
        for layer in model.encoder.layers:
            x = layer(x)
        return model.final_layer_norm(x)
