"""The training loop: one stage, any number of processes, resumable after every checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.stream import worker_error
from ..errors import InputError, OutputError, SaliencyError
from ..model import SaliencyModel
from ..streams import tell
from ..weights import save_model
from .batches import Share, StepSampler, load_batches
from .cache import build_cache
from .checkpoints import Checkpoints, remove_unfinished, replace_file
from .logs import RunLog, sample_sheet
from .losses import loss_sums
from .optimiser import build_optimizer, moving_average, set_rate, set_training_mode
from .presets import TrainConfig
from .resume import load_for_all, random_state, restore_random
from .step import Network, mean_scalars, split
from .stopping import StopRequest

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BEST_BY = "max_f"


@dataclass(frozen=True)
class RunOptions:
    """What does not change a run's outcome. Each of the last four counts steps; 0 switches it off.

    workers: processes that make samples. validate: also before the first step and after the last.
    """

    workers: int = 0
    checkpoint: int = 200
    validate: int = 500
    scalars: int = 10
    pictures: int = 500


class Trainer:
    """Trains `model` by `config` on `samples` into the folder `run`; goes on where the folder's last checkpoint is.

    samples: [number] -> sample as SampleStream gives it, for number < config.steps * config.batch, a function of the
        number alone. validation: scores of a model in eval mode, among them `BEST_BY`; None for none.

    `run` gets config.json, log.jsonl, tensorboard/, checkpoints/, cache/, best.safetensors (the model of the best
    validation by `BEST_BY`), and at the end model.safetensors (the last one) and metrics.json. Where weights are averaged,
    both models and every validation are of the average.

    Raises InputError where `run` holds a run of another configuration; OutputError; SaliencyError when the loss is not
    finite (nothing is written after that); KeyboardInterrupt after SIGINT or SIGTERM, with a checkpoint written.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        model: SaliencyModel,
        samples: Dataset,
        run: Path,
        options: RunOptions = RunOptions(),
        validation: Callable[[nn.Module], dict[str, float]] | None = None,
    ):
        self.fabric, self.config, self.model, self.samples = fabric, config, model, samples
        self.run, self.options, self.validation = run, options, validation
        self.share = Share(fabric.global_rank, fabric.world_size, config.batch)
        self.checkpoints = Checkpoints(run / "checkpoints")
        self.done, self.best, self.loss = 0, {}, math.nan
        self.log: RunLog | None = None
        self._main = fabric.global_rank == 0

    def train(self) -> dict:
        """Train to the end and return what metrics.json holds."""
        try:
            self._set_up()
            # Ahead of StopRequest: an interrupted cache goes on where it was without a checkpoint.
            samples = self._cached() if self.config.cache else self.samples
            with StopRequest() as stop:
                scores = self._train(samples, stop)
            return self._finish(scores or self.best.get("last", {}))
        except RuntimeError as error:  # It can come up anywhere: torch raises it in the handler of SIGCHLD.
            if "DataLoader worker" not in str(error):
                raise
            raise SaliencyError(
                "a process that makes samples was killed (was memory short? fewer --workers need less); "
                f"the last checkpoint is of step {max(self.checkpoints.steps(), default=0)}"
            ) from error
        finally:
            if self.log:
                self.log.close()

    def _train(self, samples: Dataset, stop: StopRequest) -> dict[str, float]:
        """All steps that are left; returns the scores of the last validation among them."""
        scores = {}
        if self.options.validate and self.done == 0:
            self._validate()
        for batch in self._batches(samples):
            frames = self._count_frames(batch, stop)
            self._step(batch, frames)
            last = self.done == self.config.steps
            if self._due(self.options.validate) or (last and self.options.validate):
                scores = self._validate()
            if self._due(self.options.checkpoint) or last:
                self._save()
        return scores

    # -- beginning and end -------------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        state = load_for_all(self.fabric, self.checkpoints, lambda text: self._tell("note", text))
        self._check(state)
        set_training_mode(self.model, self.config)
        self.model.to(self.fabric.device)
        self.average = moving_average(self.model, self.config.ema)
        optimizer = build_optimizer(self.model, self.config)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if state:
            self._restore(state, optimizer)
        self.network, self.optimizer = self.fabric.setup(Network(self.model), optimizer)
        if self._main:
            for folder in (self.run, self.checkpoints.folder):
                remove_unfinished(folder)
            self._write_json("config.json", self.config.to_dict())
            self.log = RunLog(self.run, self.done, self.config.steps)
            if state:
                self._tell("note", f"going on after step {self.done} of {self.config.steps}")

    def _restore(self, state: dict, optimizer: torch.optim.Optimizer) -> None:
        try:
            self.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["average"])
            self.done, self.best, self.loss = state["step"], dict(state["best"]), float(state["loss"])
            restore_random(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise SaliencyError(
                f"{self.checkpoints.folder}: the last checkpoint does not fit this program, or was changed "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); remove {self.run} to start again"
            ) from error

    def _check(self, state: dict | None) -> None:
        """All processes have read the folder before the first of them writes."""
        stored = state.get("config") if state else None
        if state and not isinstance(stored, dict):
            raise InputError(f"{self.checkpoints.folder}: the last checkpoint has no configuration; remove {self.run}")
        difference = self.config.difference(stored) if state else None
        if difference:
            raise InputError(
                f"{self.run} holds a run with another configuration: {difference}; "
                "give the same options to go on with it, or another folder"
            )
        if state and state["step"] > self.config.steps:
            raise InputError(f"{self.run} is already at step {state['step']}, past the {self.config.steps} asked for")
        if not state and (self.run / "model.safetensors").exists():
            raise InputError(f"{self.run} holds a model.safetensors but no checkpoints: choose another folder")
        try:
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.run}: cannot be made ({error.strerror})") from error
        self.fabric.barrier()

    def _finish(self, scores: dict) -> dict:
        metrics = {
            "stage": self.config.stage,
            "steps": self.done,
            "samples": self.done * self.config.batch,
            "loss": self.loss,
            "validation": scores or None,
            "best": self.best.get("scores"),
            "best_step": self.best.get("step"),
        }
        if self._main:
            save_model(self._evaluated(), self.run / "model.safetensors")
            self._write_json("metrics.json", metrics)
        self.fabric.barrier()
        return metrics

    # -- one step ----------------------------------------------------------------------------------------------------

    def _batches(self, samples: Dataset) -> Iterator[dict]:
        sampler = StepSampler(self.share, self.done, self.config.steps)
        batches = iter(load_batches(samples, sampler, self.options.workers, pin=self.fabric.device.type == "cuda"))
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except InputError as error:
                raise worker_error(error) from None
            names = batch.pop("name")
            yield self.fabric.to_device(batch) | {"name": names}

    def _cached(self) -> Dataset:
        def encode(clip: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad(), self.fabric.autocast():
                return self.model.with_motion(self.model.encode(clip.to(self.fabric.device)), (1, len(clip)))

        return build_cache(
            self.model, self.samples, self.config, self.run / "cache", encode=encode, barrier=self.fabric.barrier,
            rank=self.share.rank, world=self.share.world, workers=self.options.workers,
        )  # fmt: skip

    def _count_frames(self, batch: dict, stop: StopRequest) -> int:
        """Annotated frames of this step in all processes, which also agree here on whether to stop before it."""
        frames, stops = self._sum(
            torch.stack([batch["valid"].sum(), torch.tensor(stop.asked).to(batch["valid"].device)])
        ).tolist()
        if stops:
            self._save()
            if self._main:
                self.log.close()
                self._tell("note", f"checkpoint of step {self.done} written; the same command goes on from there")
            raise KeyboardInterrupt
        return int(frames)

    def _step(self, batch: dict, frames: int) -> None:
        rate = set_rate(self.optimizer, self.config, self.done)
        self.optimizer.zero_grad()
        parts, sums = split(batch, self.config.accumulate), 0
        height, width = batch["mask"].shape[-2:]
        for part in parts:
            with self.fabric.no_backward_sync(self.network, enabled=self.share.world > 1 and part is not parts[-1]):
                logits = self.network(part)
                terms = loss_sums(logits, part["mask"], part["valid"])
                # Processes average their gradients; the mean over the joint batch needs their sum.
                loss = terms.total(frames, height * width, self.config.iou_weight)
                self.fabric.backward(loss * self.share.world)
            sums = sums + terms.detached()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        scalars = mean_scalars(self._sum(sums), frames, height * width, self.config.iou_weight)
        if not (math.isfinite(scalars["loss"]) and math.isfinite(norm)):
            self._refuse(scalars["loss"], batch["name"])
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.done += 1
        self.loss = scalars["loss"]
        if self._main:
            self._record(scalars | {"lr": rate, "gradient_norm": float(norm)}, parts[-1], logits)

    def _refuse(self, loss: float, names: list[str]) -> None:
        everyone = [names]
        if self.share.world > 1:
            everyone = [[] for _ in range(self.share.world)]
            torch.distributed.all_gather_object(everyone, names)
        listed = ", ".join(name for part in everyone for name in part)
        what = "the gradient" if math.isfinite(loss) else f"the loss is {loss}, which"
        raise SaliencyError(
            f"{what} is not finite at step {self.done + 1}, with the samples {listed}; nothing was saved after it"
        )

    # -- records -----------------------------------------------------------------------------------------------------

    def _record(self, scalars: dict[str, float], part: dict, logits: Tensor) -> None:
        self.log.step(scalars["loss"], self.config.batch)
        if self._due(self.options.scalars):
            self.log.scalars(self.done, "train", scalars)
            self.log.speed(self.done)
        if self._due(self.options.pictures):
            clip = part["clip"][0] if "clip" in part else None
            saliency = torch.sigmoid(logits[0].detach().float())
            self.log.picture(self.done, sample_sheet(clip, part["mask"][0], saliency, self.model.input_spec))

    def _validate(self) -> dict[str, float]:
        """Scores of the evaluated weights, kept as best where they are."""
        if self.validation is None:
            return {}
        scores = {}
        if self._main:
            model = self._evaluated()
            scores = {name: float(value) for name, value in self.validation(model.eval()).items()}
            self.log.scalars(self.done, "val", scores)
            self.best["last"] = scores
            if not self.best.get("scores") or scores[BEST_BY] > self.best["scores"][BEST_BY]:
                save_model(model, self.run / "best.safetensors")
                self.best |= {"scores": scores, "step": self.done}
        self.fabric.barrier()
        set_training_mode(self.model, self.config)
        return scores

    def _save(self) -> None:
        """There is no state of a scheduler and of the data: both are functions of the step."""
        if self._main:
            state = {
                "step": self.done,
                "config": self.config.to_dict(),
                "model": self.model.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "loss": self.loss,
            } | random_state()
            self.checkpoints.save(self.done, state)
        self.fabric.barrier()

    # -- small things ------------------------------------------------------------------------------------------------

    def _evaluated(self) -> SaliencyModel:
        return self.average.module if self.average else self.model

    def _due(self, every: int) -> bool:
        return bool(every) and self.done % every == 0

    def _sum(self, values: Tensor) -> Tensor:
        return self.fabric.all_reduce(values, reduce_op="sum") if self.share.world > 1 else values

    def _tell(self, *parts: str) -> None:
        if self._main:
            tell(*parts)

    def _write_json(self, name: str, values: dict) -> None:
        try:
            replace_file(self.run / name, (json.dumps(values, indent=2) + "\n").encode())
        except OSError as error:
            raise OutputError(f"{self.run / name}: cannot be written ({error.strerror})") from error
