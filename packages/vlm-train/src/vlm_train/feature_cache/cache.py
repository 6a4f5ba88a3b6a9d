"""One stage's features: all of them computed before its first step, so that every step finds its own on disk.

So the features of a step never depend on whether they were there before the run, before a kill, or came just now.
Images are encoded in batches of one fixed size, of which the others are proven not to matter: a cache that was half
filled and one that is filled at once are equal to the bit.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from vlm_core.cli.progress import Progress
from vlm_core.errors import UserError
from vlm_core.io.atomic import write_file
from vlm_core.io.manifest import refuse_links
from vlm_core.model import VLM
from vlm_core.plugins.config import EncoderConfig
from vlm_core.rows import Row, Rows
from vlm_core.units import size
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data import data_workers
from vlm_train.data.dataset import FATAL, DroppedSample, Examples, SampleProcessor
from vlm_train.data.mixture import ConcatRows
from vlm_train.feature_cache.datasets import Keys, Known, Missing, Place
from vlm_train.feature_cache.fingerprint import identity, image_key, sample_picture, sample_pixels
from vlm_train.feature_cache.store import Store, Writer
from vlm_train.monitoring.run_messages import log_on_main

BATCHES = (32, 8)
"""Images at once, the first of these whose places and neighbours don't matter; else one by one."""
ABOUT = "about.json"
VERIFIED_BYTES = 4 * 2**30
"""Up to so many bytes of features are compared with their checksums before a stage begins."""
log = logging.getLogger(__name__)
AGREES = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""How far, relatively, features of the same picture may be from those that are kept: the rounding of other devices."""


def shape_of(model: VLM) -> tuple[int, int, int]:
    """(H, W, D) of an image's features."""
    return *model.encoder.grid(*model.encoder.image_size), model.encoder.dim


def estimate_cache_size(model: VLM, train: TrainConfig, stage: Stage, rows: ConcatRows) -> str | None:
    """What a stage's features take if all its images differ; None without a cache, or if only reading would tell."""
    dtype = train.feature_dtype(stage)
    if dtype is None or any(isinstance(part, Rows) and part.sizes() is None for part in rows.parts):
        return None
    images = rows.sizes()[:, 1]
    if stage.steps is not None:  # so many rows at most, whichever they are
        images = np.sort(images)[::-1][: stage.steps * stage.batch_size]
    count, one = int(images.sum()), math.prod(shape_of(model)) * getattr(torch, dtype).itemsize
    told = f"features for {stage.name}: at most {count} images of {size(one)}, {size(count * one)}"
    return told if count else None


class Features:
    """The features that one stage needs of a frozen encoder, and where they are kept."""

    def __init__(
        self, model: VLM, config: EncoderConfig, train: TrainConfig, stage: Stage, accelerator: Accelerator
    ) -> None:
        assert train.feature_cache
        self.model, self.config, self.accelerator = model, config, accelerator
        self.settings, self.stage, self.workers = train.feature_cache, stage.name, train.num_workers
        self.precision, self.dtype = train.precision, getattr(torch, train.feature_dtype(stage) or "")

    @classmethod
    def of(
        cls, model: VLM, config: EncoderConfig, train: TrainConfig, stage: Stage, accelerator: Accelerator
    ) -> Features | None:
        """None where the spec names no cache, or the stage trains the encoder."""
        return cls(model, config, train, stage, accelerator) if train.feature_dtype(stage) else None

    def ready(self, reader: SampleProcessor, rows: Sequence[Row], ahead: Sequence[int]) -> SampleProcessor:
        """Compute what the rows `ahead` need and is not there -> `reader`, giving features in place of pixels.

        Raises `UserError` on every process if they don't fit, or if those that are there come from something else.
        """
        store = self._store()
        places = self._scan(rows, ahead)
        self._together(lambda: self._drop_damaged(store, [*sorted(places), image_key(sample_picture())]))
        store.refresh()
        # one list for all processes, since another run may be writing
        missing = self._shared(lambda: [place for key, place in places.items() if key not in store])
        told = self._shared(lambda: self._check_room(store, len(places), len(missing)))
        if places:
            log_on_main(self.accelerator, told)
        pixels = Missing(rows, missing, reader.transform)
        self._together(lambda: self._fill(store, pixels))
        store.refresh()
        return replace(reader, features=Known(store), image_tokens=self.model.feature_tokens)

    def _drop_damaged(self, store: Store, keys: Sequence[bytes]) -> None:
        """Have this process's share of the entries computed again where they are damaged, if looking takes seconds.

        Of more than `VERIFIED_BYTES`, a damaged one ends the run when its turn comes.
        """
        if len(keys) * store.entry_bytes <= VERIFIED_BYTES and (bad := store.drop_damaged(self._own(keys))):
            log.warning("%s: %d features are damaged and are computed again", store.folder, bad)

    def _store(self) -> Store:
        """The folder of this encoder's features, made if need be."""
        facts = {
            "encoder": self.config.model_dump(mode="json"),
            "precision": self.precision,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        shape = shape_of(self.model)

        def made() -> str:
            folder = Path(self.settings.path) / identity(self.model.encoder, facts)
            folder.mkdir(parents=True, exist_ok=True)
            refuse_links(folder)
            about = {**facts, "label": self.config.label(), "shape": shape}
            write_file(folder / ABOUT, json.dumps(about, indent=1) + "\n")
            store = Store(folder, shape, self.dtype, folder.name)
            store.sweep()
            return str(folder)

        folder = Path(self._shared(made))
        return Store(folder, shape, self.dtype, folder.name)

    def _shared(self, told: Callable[[], Any]) -> Any:
        """What the main process finds out, on every process; its `UserError` is raised on all."""
        found: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                found = [told()]
            except (UserError, OSError) as error:
                found = [error]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        return self._checked(found[0])

    def _together(self, work: Callable[[], None]) -> None:
        """Do something on every process; if it fails on one, all raise."""
        found: list[Any] = []
        try:
            work()
        except (UserError, OSError) as error:
            found = [error]
        if self.accelerator.num_processes > 1:
            found = gather_object(found)
        for error in found:
            self._checked(error)

    def _checked(self, found: Any) -> Any:
        if isinstance(found, OSError):
            raise UserError(
                f"{self.settings.path}: cannot keep features here: {found.strerror or found}; what is stored stays"
            )
        if isinstance(found, UserError):
            raise found
        return found

    def _own(self, things: Sequence[Any]) -> Sequence[Any]:
        return things[self.accelerator.process_index :: self.accelerator.num_processes]

    def _scan(self, rows: Sequence[Row], ahead: Sequence[int]) -> dict[bytes, Place]:
        """The different images of all rows, each with one place where it is; rows that can't be read are left out."""
        found: dict[bytes, Place] = {}

        def work() -> None:
            own = self._own(ahead)
            loader = DataLoader(
                Examples(rows, Keys()), batch_size=64, sampler=own, num_workers=self.workers, collate_fn=list,
                worker_init_fn=data_workers.start_training_worker,
            )  # fmt: skip
            with self._progress("rows", len(own)) as progress:
                for items in data_workers.read(loader):
                    for row, item in zip(own[progress.done : progress.done + len(items)], items, strict=True):
                        if isinstance(item, DroppedSample):
                            if item.reason == FATAL:
                                raise UserError(f"stage {self.stage}: {item.message}")
                            continue
                        for number, key in enumerate(item):
                            found.setdefault(key, (row, number))
                    progress.advance(len(items))

        self._together(work)
        everywhere = list(found.items())
        if self.accelerator.num_processes > 1:
            everywhere = gather_object(everywhere)
        places: dict[bytes, Place] = {}
        for key, place in sorted(everywhere, key=lambda item: item[1]):
            places.setdefault(key, place)
        return places

    def _progress(self, unit: str, total: int) -> Progress:
        quiet = not self.accelerator.is_main_process
        return Progress(f"features for {self.stage}", total, unit=unit, quiet=quiet)

    def _check_room(self, store: Store, images: int, missing: int) -> str:
        """What will be computed, in a line; raises `UserError` if it is too much."""
        root, new = Path(self.settings.path), missing * store.entry_bytes
        used = sum(file.stat().st_size for file in root.rglob("*.data"))
        free, limit = shutil.disk_usage(root).free, self.settings.limit_gb
        need = f"features for {self.stage}: {images} images, {missing} of them to compute, {size(new)}"
        if missing and limit is not None and used + new > limit * 1e9:
            raise UserError(
                f"{need}; {root} holds {size(used)} already, and feature_cache.limit_gb allows {limit:g} GB: "
                "raise it, empty the folder, or leave feature_cache out"
            )
        if new > free:
            raise UserError(
                f"{need}; {root} has {size(free)} free: name another feature_cache.path, or leave feature_cache out"
            )
        return f"{need} ({size(store.entry_bytes)} each); in {store.folder}, {size(free)} free"

    def _fill(self, store: Store, missing: Missing) -> None:
        """This process's share of the missing images."""
        with torch.no_grad(), Writer(store) as writer:
            self._same_encoder(store, writer)
            if not len(missing):
                return
            count, own = self._safe_batch(), self._own(range(len(missing)))
            loader = DataLoader(
                missing, batch_size=count, sampler=own, num_workers=self.workers, collate_fn=list,
                worker_init_fn=data_workers.start_training_worker,
            )  # fmt: skip
            with self._progress("images", len(own)) as progress:
                for items in data_workers.read(loader):
                    for key, features in self._encoded([item for item in items if item], count):
                        writer.add(key, features)
                    progress.advance(len(items))

    def _encoded(self, items: Sequence[tuple[bytes, Tensor]], count: int) -> Iterator[tuple[bytes, Tensor]]:
        """Keys and features, from a batch that is filled up to `count` images."""
        if items:
            pixels = torch.stack([pixels for _, pixels in items])
            blank = pixels.new_zeros(count - len(items), *pixels.shape[1:])
            yield from zip([key for key, _ in items], self._encode(torch.cat([pixels, blank])), strict=False)

    def _encode(self, pixels: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return self.model.encode(pixels.to(self.accelerator.device)).to(self.dtype).cpu()

    def _safe_batch(self) -> int:
        """How many images at once give each the same bits in every place and company.

        Rounding follows from the shape and the place, not from the values, so random pixels show it.
        """
        for count in BATCHES:
            generator = torch.Generator().manual_seed(0)
            pixels = torch.rand(count, 3, *self.model.encoder.image_size, generator=generator)
            moved = torch.cat([torch.zeros_like(pixels[:1]), pixels[:-1]])
            if torch.equal(self._encode(pixels)[:-1], self._encode(moved)[1:]):
                return count
        return 1

    def _same_encoder(self, store: Store, writer: Writer) -> None:
        """The features of a test picture must be those that are kept, but for rounding; its code may have changed."""
        key = image_key(sample_picture())
        features = self._encode(sample_pixels(self.model.encoder)[None])[0]
        kept = store.get(key)
        if kept is None:
            if self.accelerator.is_main_process:
                writer.add(key, features)
            return
        kept, features = kept.float(), features.float()
        off = float((kept - features).norm() / kept.norm().clamp_min(1e-30))
        if not off <= AGREES[self.dtype]:
            raise UserError(
                f"{store.folder}: holds features that differ by {off:.1e} from what this encoder gives now: other code "
                "or another device made them. Remove the folder, or name another feature_cache.path"
            )
