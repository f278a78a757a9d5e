"""`python -m bench.train`: train the embedded model and the judge, from nothing, from a checkpoint or from the committed weights."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bench.cli import Parser, UserError, run
from bench.model.embedded import Embedded
from bench.model.networks import AutoencoderKL
from bench.model.shape import Shape
from bench.model.tokenizer import Tokenizer
from bench.world.sheet import save_png
from seal_ext.studio import keys
from seal_ext.studio.checkpoint import EMBEDDED, CheckpointError, expand, pack

from . import autoencoder, denoiser, words
from .card import write_card
from .loop import Trainer, recorded_runs
from .pool import SHARD, Scenes, caption_corpus, shard_path
from .samples import sample_sheet
from .teacher import Teacher

STAGES = {"teacher": 0.1, "words": 0.03, "denoiser": 0.67, "autoencoder": 0.2}  # and the share of the budget each takes
SIZE = 128
NAME = "seal-embedded"
LOOKED_AT = 24  # shards that are held as pictures; more would need more memory than many machines have
ROOT = Path(__file__).resolve().parents[2]
STRANGER = {"width": 96, "multipliers": (1, 1, 1, 1), "context": 64, "text_layers": 2, "text_heads": 2}
STRANGER_PAIRED = (0.15, 0.1)
STRANGER_SALT = 1 << 20  # keeps the seeds of its steps apart


class Workshop:
    """One folder of training: the pool, every stage's checkpoint, the log, the sheets; and how the stages find each other."""

    def __init__(self, options: argparse.Namespace, device: torch.device, paired: tuple[float, ...], alone: bool):
        self.folder, self.device, self.shards, self.steps = options.out, device, options.shards, options.steps
        self.paired, self.alone = paired, alone  # shares of two-panel canvases; whether nobody else renders
        self.logfile = self.folder / "log.jsonl"
        self.loaded: set[int] = set()
        self.measured = False
        self.base = None if options.fresh else self._committed()  # what settles the latent space and the tokenizer
        self.stranger = options.stranger
        self.committed = None if self.stranger else self.base  # what training goes on from
        self.history = json.loads((EMBEDDED / "card.json").read_text(encoding="utf-8"))["training"] if self.committed else {}
        self.shape = self.committed.shape if self.committed else Shape(width=options.width)
        if self.stranger:
            if self.base is None:
                raise UserError("--stranger needs the committed weights, in whose latent space it draws")
            self.shape = replace(self.base.shape, **STRANGER)
        self.tokenizer_folder = self.folder / "tokenizer"
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
        return self.base.vae.eval().to(self.device) if self.base else None

    def refill(self, most: int = 1 << 30, least: int = 1) -> list[Scenes]:
        """Up to `most` new shards: those in the folder; rendered here if nobody else does, or while fewer than `least` are there."""
        new = []
        for number in range(self.shards):
            if len(new) == most:
                break
            path = shard_path(self.folder.parent / "pool", number)
            if number in self.loaded:
                continue
            if path.exists():
                new.append(Scenes.load(path))
            elif self.alone or len(self.loaded) < least:
                new.append(Scenes.rendered(number, SIZE, self.device))
                if self.device.type == "cpu":  # a GPU renders faster than a disk reads
                    new[-1].save(path)
            else:
                continue
            self.loaded.add(number)
        return new

    def latents_path(self, scenes: Scenes) -> Path | None:
        """Where the latents of a shard are kept, if they are those of the committed encoder, which no training changes."""
        if self.base is None:
            return None
        weights = hashlib.sha256((EMBEDDED / "manifest.json").read_bytes()).hexdigest()[:8]
        return self.folder.parent / "pool" / f"latents-{weights}-{int(scenes.seeds[0])}.safetensors"

    def pool(self) -> tuple[list[Scenes], Callable[[], None]]:
        """Scenes to look at themselves, and what adds one more shard to them."""
        self.loaded.clear()
        scenes = self.refill(most=2, least=2)
        return scenes, lambda: scenes.extend(self.refill(most=1) if len(scenes) < LOOKED_AT else [])

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.vae.encode(image.to(self.device))[0].float() * self.shape.scale_factor

    # ---- stages

    def teacher(self, minutes: float) -> None:
        if self.base:
            print("teacher: the committed autoencoder already settles the latent space")
            return
        scenes, more = self.pool()
        trainer = self._trainer("teacher", Teacher(), 2e-3, minutes, weight_decay=0.0)
        trainer.resume()
        autoencoder.train_autoencoder(trainer, scenes, self.device, self.logfile, refill=more)
        self.vae = self._vae()
        self.save_sheet("teacher", autoencoder.sheet(self.vae, scenes, self.device))

    def words(self, minutes: float) -> None:
        if self.committed:
            print("words: the committed text encoder already knows them")
            return
        trainer = self._trainer("words", words.Pupil(self.shape), 1e-3, minutes, average=0.99)
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
        if self.base is None and not self.measured:
            scenes, _ = self.pool()
            self.shape = replace(self.shape, scale_factor=round(autoencoder.latent_scale(self.vae, scenes[:1], self.device), 5))
            self.measured = True
        return self.shape

    def _trainer(self, stage: str, module: torch.nn.Module, rate: float, minutes: float, **options) -> Trainer:
        return Trainer(module.to(self.device), self.folder / f"{stage}.safetensors", rate, minutes, length=self.steps, **options)

    def denoiser(self, minutes: float) -> None:
        if self.vae is None:
            raise UserError("the denoiser needs a latent space: run the teacher stage first")
        shape = self.scaled()
        model = self.committed or Embedded(shape)
        if not self.committed:
            self._taught(model)
        tokenizer = self.tokenizer(shape)
        latents = denoiser.Latents(self.encode)
        trainer = self._trainer("denoiser", denoiser.Denoiser(model), 8e-4, minutes, turned=denoiser.turned)
        if not trainer.resume() and self.committed:
            trainer.start_from(trainer.module.state_dict(), self.history["denoiser"])
        # A few shards to begin with; the rest follow while training runs.
        self.loaded.clear()
        for scenes in self.refill(most=2, least=2):
            latents.add(scenes, self.latents_path(scenes))

        def between(step: int) -> None:
            for scenes in self.refill(most=1):
                latents.add(scenes, self.latents_path(scenes))
            if step % 1000 == 999:
                averaged = trainer.averaged
                self.save_sheet(f"denoiser-{step + 1:06d}", sample_sheet(averaged, self.vae, shape, tokenizer, self.device))
                self.keep_weights()

        salt = STRANGER_SALT if self.stranger else 0
        denoiser.train_denoiser(trainer, model, latents, tokenizer, self.device, self.logfile, 50, between, self.paired, salt)

    def autoencoder(self, minutes: float) -> None:
        if self.stranger:
            print("autoencoder: the stranger draws with the committed one")
            return
        if self.vae is None:
            raise UserError("the autoencoder needs a teacher: run the teacher stage first")
        scenes, more = self.pool()
        if self.committed:
            vae = copy.deepcopy(self.committed.vae)
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
            trainer = self._trainer("autoencoder", vae, 8e-4, minutes, weight_decay=0.0)
            if not trainer.resume():
                trainer.start_from(vae.state_dict(), self.history["autoencoder"])
            autoencoder.train_decoder(trainer, scenes, self.device, self.logfile, refill=more)
        else:
            trainer = self._trainer("autoencoder", AutoencoderKL(self.shape), 1.5e-3, minutes, weight_decay=0.0)
            trainer.resume()
            autoencoder.train_student(trainer, copy.deepcopy(self.vae), scenes, self.device, self.logfile, refill=more)
        self.save_sheet("autoencoder", autoencoder.sheet(trainer.averaged, scenes, self.device))
        self.keep_weights()

    # ---- files

    def tokenizer(self, shape: Shape) -> Tokenizer:
        from bench.model import tokenizer

        if not (self.tokenizer_folder / "vocab.json").exists():
            base = EMBEDDED / "expanded" / f"{NAME}-tokenizer"
            if self.committed:
                return Tokenizer(base)
            merges = tokenizer.read(base) if self.base else tokenizer.train(caption_corpus(), limit=shape.vocab, least=3)
            tokenizer.write(self.tokenizer_folder, merges, shape)
        return Tokenizer(self.tokenizer_folder)

    def save_sheet(self, name: str, picture: torch.Tensor) -> None:
        save_png(picture, self.folder / "sheets" / f"{name}.png")

    def keep_weights(self) -> None:
        """The shards of what is reached so far: small files, of which each is easily carried away."""
        if self.base or all((self.folder / f"{stage}.safetensors").exists() for stage in ("denoiser", "autoencoder")):
            self.publish(self.folder / "weights", 8)

    def publish(self, target: Path, bits: int) -> None:
        """Pack the averaged weights of every trained stage into shards, ready to be committed."""
        shape = self.scaled()
        model = copy.deepcopy(self.committed) or Embedded(shape)  # never the networks that are being trained
        stages = {"denoiser": denoiser.Denoiser(model)} | ({} if self.stranger else {"autoencoder": model.vae})
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
        state, name = model.ldm_state(), NAME
        if self.stranger:  # its autoencoder is the committed one
            state, name = {key: x for key, x in state.items() if not key.startswith(keys.VAE)}, "seal-stranger"
        write_card(target, name, shape, model, history)
        pack(state, model.adapter_state(), shape.ldm_yaml(""), folder, target, name=name, bits=bits)


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
    parser.add_argument("--steps", type=int, help="length of the one stage named, from the weights it began with; the same call resumes")
    parser.add_argument("--paired", metavar="A,B,…", help="shares of canvases that show one subject twice, in equal parts of "
                        f"the denoiser's budget; usually {denoiser.PAIRED}, the stranger's {STRANGER_PAIRED}")  # fmt: skip
    parser.add_argument("--stages", default=",".join(STAGES), help=f"comma-separated, of {', '.join(STAGES)}")
    parser.add_argument("--stranger", action="store_true", help="train the small second model on which nothing is tuned: another width, "
                        "seed and recipe, in the committed one's latent space")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of checkpoints, log and sheets; out/train or out/stranger if not given")
    parser.add_argument("--width", type=int, default=Shape.width, help="base width of a new model; existing weights keep theirs")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of this process; 0 leaves torch's own choice")
    parser.add_argument("--shards", type=int, default=96, help=f"size of the pool, {SHARD} subjects each")
    parser.add_argument("--producers", type=int, default=1, help="processes that render ahead on a CPU; 0 renders between the steps")
    parser.add_argument("--fresh", action="store_true", help="do not start from the committed weights")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="pack the trained weights into shards there, and stop")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="precision of the published shards")
    options = parser.parse_args(argv)
    stages = [s for s in options.stages.split(",") if s]
    if unknown := [s for s in stages if s not in STAGES]:
        raise UserError(f"unknown stage {unknown[0]!r}; one of {', '.join(STAGES)}")
    try:
        usual = STRANGER_PAIRED if options.stranger else denoiser.PAIRED
        paired = usual if options.paired is None else tuple(float(share) for share in options.paired.split(","))
    except ValueError:
        paired = ()
    if not paired or not all(0 <= share <= 1 for share in paired):
        raise UserError(f"--paired is {options.paired!r}; it holds shares between 0 and 1, such as 0.5,0.3")
    if options.steps is not None and (options.steps < 1 or len(stages) != 1):
        raise UserError("--steps must be above 0, and --stages then name one stage")
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
    torch.manual_seed(STRANGER_SALT if options.stranger else 0)
    options.out = options.out or ROOT / "out" / ("stranger" if options.stranger else "train")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    producers = options.producers if name == "cpu" else 0
    workshop = Workshop(options, torch.device(name), paired, alone=producers == 0)
    if options.publish:
        workshop.publish(options.publish, options.bits)
        return 0
    helpers = _producers(options.out.parent / "pool", options.shards, producers)
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
