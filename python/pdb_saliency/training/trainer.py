"""The training loop: one stage, any number of processes, resumable from every checkpoint."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pdb_saliency.errors import InputError, OutputError, SaliencyError
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.model.weights import save_model

from .checkpoints import Checkpoints, check_run, random_state, remove_unfinished, restore, write_durably
from .config import RunOptions, TrainConfig
from .distributed import in_each, in_first, share_statistics
from .feature_cache import build_cache
from .interrupt import StopRequest
from .loader import Share, StepSampler, load_batches
from .log import RunLog, sample_sheet
from .losses import loss_sums
from .optimiser import build_optimizer, moving_average, set_rate, set_training_mode
from .step import Network, mean_scalars, not_finite, split

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger(__name__)

BEST_BY = "max_f"


class Trainer:
    """Trains `model` by `config` on `samples` into the folder `run`, continuing from the folder's last checkpoint.

    samples: [number] -> sample as SampleStream gives it, for number < config.steps * config.batch, a function of the
        number alone. validation: returns the scores of a model in eval mode, `BEST_BY` among them; None for no
        validation. It is called in every process, and must return the same in all of them.

    `run` gets config.json, log.jsonl, tensorboard/, checkpoints/, cache/, best.safetensors (the model of the best
    validation by `BEST_BY`), and at the end model.safetensors (the last one) and metrics.json. If weights are averaged,
    both models and every validation use the average.

    Raises InputError if `run` holds a run of another configuration; OutputError; SaliencyError if the loss is not
    finite (nothing is written after that); KeyboardInterrupt after SIGINT or SIGTERM, once a checkpoint is written.
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
        default = 8 if fabric.device.type == "cuda" else 1
        self.workers = default if options.workers is None else options.workers
        self.share = Share(fabric.global_rank, fabric.world_size, config.batch)
        self.checkpoints = Checkpoints(run / "checkpoints")
        self.done, self.best, self.loss = 0, {}, math.nan
        self.log: RunLog | None = None
        self._main = fabric.global_rank == 0

    def train(self) -> dict:
        """Train to the end and return what metrics.json holds."""
        try:
            self._set_up()
            # Before StopRequest: an interrupted cache continues where it stopped, without a checkpoint.
            samples = self.samples
            if self.config.cache:
                samples = build_cache(self.fabric, self.model, samples, self.config, self.run / "cache", self.workers)
            with StopRequest(self.options.on_stop) as stop:
                scores = self._train(samples, stop)
            return self._finish(scores or self.best.get("last", {}))
        except RuntimeError as error:  # It can occur anywhere: torch raises it in the handler of SIGCHLD.
            if "DataLoader worker" not in str(error):
                raise
            raise SaliencyError(
                "a process that makes samples was killed (too little memory? fewer --workers need less); "
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
        # The first process reads the folder for all: others may see another folder or other damage, and processes at
        # different steps would wait for each other forever.
        state = in_first(self.fabric, self._read_run)
        set_training_mode(self.model, self.config)
        self.model.to(self.fabric.device)
        self.average = moving_average(self.model, self.config.ema)
        if self.share.world > 1:
            share_statistics(self.model, self.fabric.device)
        optimizer = build_optimizer(self.model, self.config)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if state:
            restore(state, self.model, optimizer, self.average, self.run)
            self.done, self.best, self.loss = state["step"], dict(state["best"]), float(state["loss"])
        self.network, self.optimizer = self.fabric.setup(Network(self.model), optimizer)
        in_first(self.fabric, self._open_records)
        if state:
            self._note(f"going on after step {self.done} of {self.config.steps}")

    def _open_records(self) -> None:
        for folder in (self.run, self.checkpoints.folder):
            remove_unfinished(folder)
        self._write_json("config.json", self.config.to_dict())
        self.log = RunLog(self.run, self.done, self.config.steps)

    def _read_run(self) -> dict | None:
        """The state to go on from. Raises what `check_run` does, before anything is written."""
        state = self.checkpoints.load(self._note)
        check_run(self.run, self.config, state)
        try:
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.run}: cannot be made ({error.strerror})") from error
        return state

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

        def write() -> None:
            save_model(self._evaluated(), self.run / "model.safetensors")
            self._write_json("metrics.json", metrics)

        in_first(self.fabric, write)
        return metrics

    # -- one step ----------------------------------------------------------------------------------------------------

    def _batches(self, samples: Dataset) -> Iterator[dict | SaliencyError]:
        """Batches, or the error that ends them, which is handed on because all processes must learn of it first."""
        sampler = StepSampler(self.share, self.done, self.config.steps)
        batches = load_batches(samples, sampler, self.workers, pin=self.fabric.device.type == "cuda")
        try:
            for batch in batches:
                names = batch.pop("name")
                yield self.fabric.to_device(batch) | {"name": names}
        except InputError as error:
            yield error

    def _count_frames(self, batch: dict | SaliencyError, stop: StopRequest) -> int:
        """Annotated frames of this step in all processes, which also agree here on whether to go on."""
        failed = isinstance(batch, SaliencyError)
        mine = [0 if failed else int(batch["valid"].sum()), stop.asked, failed]
        frames, stops, failures = self._sum(torch.tensor(mine, dtype=torch.int64, device=self.fabric.device)).tolist()
        if failed:
            raise batch from None
        if failures:
            raise SystemExit(1)  # The process that failed reports why.
        if stops:
            self._save()
            if self._main:
                self.log.close()
                self._note(f"checkpoint of step {self.done} written; the same command goes on from there")
            raise KeyboardInterrupt
        return frames

    def _step(self, batch: dict, frames: int) -> None:
        rate = set_rate(self.optimizer, self.config, self.done)
        self.optimizer.zero_grad()
        parts, sums = split(batch, self.config.accumulate), 0
        height, width = batch["mask"].shape[-2:]
        for part in parts:
            with self.fabric.no_backward_sync(self.network, enabled=self.share.world > 1 and part is not parts[-1]):
                logits = self.network(part)
                terms = loss_sums(logits, part["mask"], part["valid"])
                # DDP averages the gradients of the processes; the mean over the whole batch needs their sum.
                loss = terms.total(frames, height * width, self.config.iou_weight)
                self.fabric.backward(loss * self.share.world)
            sums = sums + terms.detached()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        scalars = mean_scalars(self._sum(sums), frames, height * width, self.config.iou_weight)
        if not (math.isfinite(scalars["loss"]) and math.isfinite(norm)):
            names = [name for names in in_each(self.fabric, lambda: batch["name"]) for name in names]
            error = not_finite(scalars["loss"], self.done + 1, names)
            raise error if self._main else SystemExit(1)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.done += 1
        self.loss = scalars["loss"]
        if self._main:
            self._record(scalars | {"lr": rate, "gradient_norm": float(norm)}, parts[-1], logits)

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
        """Score the evaluated weights, and keep them if they are the best so far."""
        if self.validation is None:
            return {}
        model = self._evaluated()
        scores = {name: float(value) for name, value in self.validation(model.eval()).items()}
        set_training_mode(self.model, self.config)
        self.best["last"] = scores
        best = not self.best.get("scores") or scores[BEST_BY] > self.best["scores"][BEST_BY]
        if best:
            self.best |= {"scores": scores, "step": self.done}

        def record() -> None:
            self.log.scalars(self.done, "val", scores)
            if best:
                save_model(model, self.run / "best.safetensors")

        in_first(self.fabric, record)
        return scores

    def _save(self) -> None:
        """Learning rate and data have no state to save: both are functions of the step."""

        def save() -> None:
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

        in_first(self.fabric, save)

    # -- helpers ------------------------------------------------------------------------------------------------

    def _evaluated(self) -> SaliencyModel:
        return self.average.module if self.average else self.model

    def _due(self, every: int) -> bool:
        return bool(every) and self.done % every == 0

    def _sum(self, values: Tensor) -> Tensor:
        return self.fabric.all_reduce(values, reduce_op="sum") if self.share.world > 1 else values

    def _note(self, text: str) -> None:
        if self._main:
            _log.warning("%s", text)

    def _write_json(self, name: str, values: dict) -> None:
        try:
            write_durably(self.run / name, (json.dumps(values, indent=2) + "\n").encode())
        except OSError as error:
            raise OutputError(f"{self.run / name}: cannot be written ({error.strerror})") from error
