"""`python -m bench.train`: train the embedded model and the judge, from nothing, from a checkpoint or from the committed weights."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bench.cli import Parser, UserError, run
from bench.model.embedded import Embedded
from bench.model.networks import AutoencoderKL
from bench.model.shape import Shape
from bench.model.tokenizer import Tokenizer
from bench.world.sheet import save_png
from seal_ext.studio.checkpoint import EMBEDDED, CheckpointError, expand, pack

from . import autoencoder, denoiser, words
from .card import write_card
from .loop import Trainer, recorded_runs
from .pool import SHARD, Pairs, caption_corpus, shard_path
from .samples import sample_sheet
from .teacher import Teacher

STAGES = {"teacher": 0.1, "words": 0.03, "denoiser": 0.67, "autoencoder": 0.2}  # and the share of the budget each takes
SIZE = 128
NAME = "seal-embedded"
ROOT = Path(__file__).resolve().parents[2]


class Workshop:
    """One folder of training: the pool, every stage's checkpoint, the log, the sheets; and how the stages find each other."""

    def __init__(self, folder: Path, device: torch.device, width: int, shards: int, fresh: bool):
        self.folder, self.device, self.shards, self.fresh = folder, device, shards, fresh
        self.logfile = folder / "log.jsonl"
        self.pool: list[Pairs] = []
        self.loaded: set[int] = set()
        self.measured = False
        self.committed = None if fresh else self._committed()
        self.history = json.loads((EMBEDDED / "card.json").read_text(encoding="utf-8"))["training"] if self.committed else {}
        self.shape = self.committed.shape if self.committed else Shape(width=width)
        self.tokenizer_folder = folder / "tokenizer"
        self.vae = self._vae()

    def _committed(self) -> Embedded | None:
        """The weights in the repository, when there are any."""
        if not (EMBEDDED / "manifest.json").exists():
            return None
        try:
            files = expand(EMBEDDED, EMBEDDED / "expanded")
            return Embedded.load(files.checkpoint, files.adapter)
        except (CheckpointError, ValueError) as error:
            raise UserError(f"the committed weights cannot be read ({error}); use --fresh to start without them") from error

    def _vae(self) -> torch.nn.Module | None:
        """Whatever defines the latent space: this folder's teacher, else the committed autoencoder."""
        path = self.folder / "teacher.safetensors"
        if path.exists():
            trainer = Trainer(Teacher(), path, 0.0, 1.0)
            trainer.resume()
            return trainer.averaged.eval().to(self.device)
        return self.committed.vae.eval().to(self.device) if self.committed else None

    def refill(self, most: int = 1 << 30, least: int = 1) -> list[Pairs]:
        """Up to `most` new shards: what the producers have finished; rendered here on a GPU, or while fewer than `least` are there."""
        new = []
        for number in range(self.shards):
            if len(new) == most:
                break
            path = shard_path(self.folder.parent / "pool", number)
            if number in self.loaded:
                continue
            if path.exists():
                new.append(Pairs.load(path))
            elif self.device.type == "cuda" or len(self.loaded) < least:
                new.append(Pairs.rendered(number, SIZE, self.device))
            else:
                continue
            self.loaded.add(number)
        self.pool += new
        return new

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.vae.encode(image.to(self.device))[0].float() * self.shape.scale_factor

    # ---- stages

    def teacher(self, minutes: float) -> None:
        if self.committed:
            print("teacher: the committed autoencoder already settles the latent space")
            return
        self.refill(least=2)
        trainer = Trainer(Teacher().to(self.device), self.folder / "teacher.safetensors", 2e-3, minutes, weight_decay=0.0)
        trainer.resume()
        autoencoder.train_autoencoder(trainer, self.pool, self.device, self.logfile, refill=self.refill)
        self.vae = self._vae()
        self.save_sheet("teacher", autoencoder.sheet(self.vae, self.pool, self.device))

    def words(self, minutes: float) -> None:
        if self.committed:
            print("words: the committed text encoder already knows them")
            return
        trainer = Trainer(words.Pupil(self.shape).to(self.device), self.folder / "words.safetensors", 1e-3, minutes, average=0.99)
        trainer.resume()
        words.train_words(trainer, self.tokenizer(self.shape), self.device, self.logfile)

    def _taught(self, model: Embedded) -> None:
        """A new model starts with a text encoder that knows its words, when that stage was run."""
        path = self.folder / "words.safetensors"
        if path.exists():
            trainer = Trainer(words.Pupil(self.shape), path, 0.0, 1.0)
            trainer.resume()
            model.text.load_state_dict(trainer.averaged.text.state_dict())

    def scaled(self) -> Shape:
        """The shape with the scale of this latent space, measured once, on the pool's first shard."""
        if self.committed is None and not self.measured:
            if not self.pool:
                self.refill(most=1)
            self.shape = replace(self.shape, scale_factor=round(autoencoder.latent_scale(self.vae, self.pool[:1], self.device), 5))
            self.measured = True
        return self.shape

    def denoiser(self, minutes: float) -> None:
        if self.vae is None:
            raise UserError("the denoiser needs a latent space: run the teacher stage first")
        shape = self.scaled()
        model = self.committed or Embedded(shape)
        if not self.committed:
            self._taught(model)
        tokenizer = self.tokenizer(shape)
        latents = denoiser.Latents(self.encode)
        trainer = Trainer(denoiser.Denoiser(model).to(self.device), self.folder / "denoiser.safetensors", 8e-4, minutes,
                          turned=denoiser.turned)  # fmt: skip
        if not trainer.resume() and self.committed:
            trainer.start_from(trainer.module.state_dict(), self.history["denoiser"])
        # A few shards to begin with; the rest follow while training runs.
        for pairs in self.pool or self.refill(most=4):
            latents.add(pairs)

        def between(step: int) -> None:
            for pairs in self.refill(most=1):
                latents.add(pairs)
            if step % 1000 == 999:
                averaged = trainer.averaged
                self.save_sheet(f"denoiser-{step + 1:06d}", sample_sheet(averaged, self.vae, shape, tokenizer, self.device))

        trainer.on_save = self.keep_weights
        denoiser.train_denoiser(trainer, model, latents, tokenizer, self.device, self.logfile, every=50, between=between)

    def autoencoder(self, minutes: float) -> None:
        if self.vae is None:
            raise UserError("the autoencoder needs a teacher: run the teacher stage first")
        self.refill()
        vae = self.committed.vae if self.committed else AutoencoderKL(self.shape)
        trainer = Trainer(vae.to(self.device), self.folder / "autoencoder.safetensors", 1.5e-3, minutes, weight_decay=0.0)
        if not trainer.resume() and self.committed:
            trainer.start_from(vae.state_dict(), self.history["autoencoder"])
        teacher = copy.deepcopy(self.vae)  # without a teacher of its own the student starts from what it teaches
        trainer.on_save = self.keep_weights
        autoencoder.train_student(trainer, teacher, self.pool, self.device, self.logfile, refill=self.refill)
        self.save_sheet("autoencoder", autoencoder.sheet(trainer.averaged, self.pool, self.device))

    # ---- files

    def tokenizer(self, shape: Shape) -> Tokenizer:
        from bench.model import tokenizer

        if not (self.tokenizer_folder / "vocab.json").exists():
            if self.committed:
                return Tokenizer(EMBEDDED / "expanded" / f"{NAME}-tokenizer")
            tokenizer.write(self.tokenizer_folder, tokenizer.train(caption_corpus(), limit=shape.vocab, least=3), shape)
        return Tokenizer(self.tokenizer_folder)

    def save_sheet(self, name: str, picture: torch.Tensor) -> None:
        save_png(picture, self.folder / "sheets" / f"{name}.png")

    def keep_weights(self) -> None:
        """The shards of what is reached so far, beside every checkpoint: small files, of which each is easily carried away."""
        if self.committed or all((self.folder / f"{stage}.safetensors").exists() for stage in ("denoiser", "autoencoder")):
            self.publish(self.folder / "weights", 8)

    def publish(self, target: Path, bits: int) -> None:
        """Pack the averaged weights of every trained stage into shards, ready to be committed."""
        shape = self.scaled()
        model = copy.deepcopy(self.committed) or Embedded(shape)  # never the networks that are being trained
        stages = {"denoiser": denoiser.Denoiser(model), "autoencoder": model.vae}
        history = dict(self.history)
        for stage, module in stages.items():
            path = self.folder / f"{stage}.safetensors"
            if path.exists():
                trainer = Trainer(module, path, 0.0, 1.0)
                trainer.resume()
                module.load_state_dict(trainer.averaged.state_dict())
            elif not self.committed:
                raise UserError(f"nothing to publish: {path} is missing")
        # What the weights owe to stages that are not shipped, and the judge's record, belong to the card too.
        for stage in (*STAGES, "judge"):
            path = self.folder / f"{stage}.safetensors"
            if path.exists():
                history[stage] = recorded_runs(path)
        folder = self.tokenizer_folder if self.tokenizer_folder.exists() else EMBEDDED / "expanded" / f"{NAME}-tokenizer"
        write_card(target, shape, model, history)
        pack(model.ldm_state(), model.adapter_state(), shape.ldm_yaml(""), folder, target, name=NAME, bits=bits)


def _producers(folder: Path, shards: int, count: int) -> list[subprocess.Popen]:
    """Processes that render the pool while this one trains."""
    code = "import sys; from pathlib import Path; from bench.train.pool import produce; produce(Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    return [
        subprocess.Popen([sys.executable, "-c", code, str(folder), str(shards), str(SIZE), str(i), str(count)], cwd=ROOT)
        for i in range(count)
    ]


def main(argv: list[str]) -> int:
    parser = Parser(prog="train", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="time budget of this call, over all its stages")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"comma-separated, of {', '.join(STAGES)}")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "train", help="folder of checkpoints, log and sheets")
    parser.add_argument("--width", type=int, default=Shape.width, help="base width of a new model; existing weights keep theirs")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of this process; 0 leaves torch's own choice")
    parser.add_argument("--shards", type=int, default=96, help=f"size of the pool, {SHARD} pairs of pictures each")
    parser.add_argument("--producers", type=int, default=1, help="processes that render ahead on a CPU")
    parser.add_argument("--fresh", action="store_true", help="do not start from the committed weights")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="pack the trained weights into shards there, and stop")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="precision of the published shards")
    options = parser.parse_args(argv)
    stages = [s for s in options.stages.split(",") if s]
    if unknown := [s for s in stages if s not in STAGES]:
        raise UserError(f"unknown stage {unknown[0]!r}; one of {', '.join(STAGES)}")
    if not 0 < options.minutes <= 100_000:
        raise UserError("--minutes must be above 0")
    if options.width % 32 or not 32 <= options.width <= 320:
        raise UserError("--width must be a multiple of 32 between 32 and 320")
    if not 1 <= options.shards <= 100_000 or not 0 <= options.producers <= 64:
        raise UserError("--shards must be 1 to 100000 and --producers 0 to 64")
    if options.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {options.device!r}; auto, cpu or cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available")
    if options.threads:
        torch.set_num_threads(options.threads)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    workshop = Workshop(options.out, torch.device(name), options.width, options.shards, options.fresh)
    if options.publish:
        workshop.publish(options.publish, options.bits)
        return 0
    helpers = _producers(options.out.parent / "pool", options.shards, options.producers if name == "cpu" else 0)
    try:
        total = sum(STAGES[s] for s in stages)
        for stage in stages:
            getattr(workshop, stage)(options.minutes * STAGES[stage] / total)
    finally:
        for helper in helpers:
            helper.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
