"""The feature cache of one stage: all missing features are computed before the stage's first step.

Cached features are bit-identical whether they were computed in this run, an earlier one or one that was killed: images
are encoded in batches of a fixed size for which the other images of the batch change no bit.
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
from vlm_core.rows import Row
from vlm_core.units import size
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data import data_workers
from vlm_train.data.dataset import FATAL, DroppedSample, Examples, SampleProcessor
from vlm_train.feature_cache.datasets import CachedFeatures, ImageKeys, ImageLocation, UncachedImages
from vlm_train.feature_cache.fingerprint import encoder_fingerprint, image_key, sample_picture, sample_pixels
from vlm_train.feature_cache.size import shape_of
from vlm_train.feature_cache.store import FeatureStore, Writer
from vlm_train.monitoring.run_messages import log_on_main

BATCH_SIZES = (32, 8)
"""Candidate batch sizes: the first with batch-invariant features is used, else 1."""
ABOUT = "about.json"
VERIFIED_BYTES = 4 * 2**30
"""Stages with at most so many bytes of features verify all checksums before the first step."""
log = logging.getLogger(__name__)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest relative difference between cached and recomputed features of an image: rounding differs by device."""


class Features:
    """Computes and caches the features of a frozen encoder for one stage."""

    def __init__(
        self, model: VLM, config: EncoderConfig, train: TrainConfig, stage: Stage, accelerator: Accelerator
    ) -> None:
        assert train.feature_cache
        self.model, self.config, self.accelerator = model, config, accelerator
        self.settings, self.stage = train.feature_cache, stage.name
        pixels = 3 * math.prod(model.encoder.image_size) * torch.float32.itemsize
        pixels *= model.image_processor.most_views
        self.workers = data_workers.worker_count(
            train.num_workers, accelerator.device.type, BATCH_SIZES[0] * pixels
        ).number
        self.precision, self.dtype = train.precision, getattr(torch, train.feature_dtype(stage) or "")

    @classmethod
    def of(
        cls, model: VLM, config: EncoderConfig, train: TrainConfig, stage: Stage, accelerator: Accelerator
    ) -> Features | None:
        """The features of a stage; None without a cache, or if the stage trains the encoder."""
        return cls(model, config, train, stage, accelerator) if train.feature_dtype(stage) else None

    def ready(
        self, processor: SampleProcessor, rows: Sequence[Row], indices: Sequence[int]
    ) -> SampleProcessor:
        """Compute missing features of the rows `indices` -> `processor` with features in place of pixels.

        Raises `UserError` on every process if the disk or the limit is too small for them, or if cached features differ
        from those of this encoder.
        """
        store = self._store()
        locations = self._scan(rows, indices)
        self._on_all(lambda: self._drop_damaged(store, [*sorted(locations), image_key(sample_picture())]))
        store.refresh()
        # one list for all processes, since another run may be writing
        missing = self._on_main(lambda: [place for key, place in locations.items() if key not in store])
        message = self._on_main(lambda: self._check_room(store, len(locations), len(missing)))
        if locations:
            log_on_main(self.accelerator, message)
        images = UncachedImages(rows, missing, self.model.image_processor, self.model.video_processor)
        self._on_all(lambda: self._fill(store, images))
        store.refresh()
        cached = CachedFeatures(store, self.model.image_processor, self.model.video_processor)
        return replace(processor, features=cached, image_tokens=self.model.feature_tokens)

    def _drop_damaged(self, store: FeatureStore, keys: Sequence[bytes]) -> None:
        """Mark damaged entries of this process's share, so that they are recomputed.

        Beyond `VERIFIED_BYTES` nothing is checked here; a damaged entry ends the run when it is read.
        """
        if len(keys) * store.entry_bytes <= VERIFIED_BYTES and (bad := store.drop_damaged(self._share(keys))):
            log.warning("%s: %d features are damaged and are recomputed", store.folder, bad)

    def _store(self) -> FeatureStore:
        """The store of this encoder's features; the main process creates its folder."""
        settings = {
            "encoder": self.config.model_dump(mode="json"),
            "precision": self.precision,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        shape = shape_of(self.model)

        def create() -> str:
            folder = Path(self.settings.path) / encoder_fingerprint(self.model.encoder, settings)
            folder.mkdir(parents=True, exist_ok=True)
            refuse_links(folder)
            about = {**settings, "label": self.config.label(), "shape": shape}
            write_file(folder / ABOUT, json.dumps(about, indent=1) + "\n")
            store = FeatureStore(folder, shape, self.dtype, folder.name)
            store.sweep()
            return str(folder)

        folder = Path(self._on_main(create))
        return FeatureStore(folder, shape, self.dtype, folder.name)

    def _on_main(self, compute: Callable[[], Any]) -> Any:
        """The main process's result of `compute` on every process; its `UserError` is raised on all."""
        result: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                result = [compute()]
            except (UserError, OSError) as error:
                result = [error]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(result)
        self._raise_if_error(result[0])
        return result[0]

    def _on_all(self, work: Callable[[], None]) -> None:
        """Call `work` on every process; if it fails on one, all raise."""
        errors: list[Any] = []
        try:
            work()
        except (UserError, OSError) as error:
            errors = [error]
        if self.accelerator.num_processes > 1:
            errors = gather_object(errors)
        for error in errors:
            self._raise_if_error(error)

    def _raise_if_error(self, result: Any) -> None:
        if isinstance(result, OSError):
            raise UserError(
                f"{self.settings.path}: cannot write features: {result.strerror or result}; stored features remain"
            )
        if isinstance(result, UserError):
            raise result

    def _share(self, items: Sequence[Any]) -> Sequence[Any]:
        """The items of this process."""
        return items[self.accelerator.process_index :: self.accelerator.num_processes]

    def _scan(self, rows: Sequence[Row], indices: Sequence[int]) -> dict[bytes, ImageLocation]:
        """{key: one location} of the distinct views of the rows' images; unreadable rows are skipped."""
        locations_by_key: dict[bytes, ImageLocation] = {}

        def work() -> None:
            share = self._share(indices)
            loader = DataLoader(
                Examples(rows, ImageKeys(self.model.image_processor, self.model.video_processor)),
                batch_size=64,
                sampler=share,
                num_workers=self.workers,
                collate_fn=list,
                worker_init_fn=data_workers.start_training_worker,
            )
            with self._progress("rows", len(share)) as progress:
                for items in data_workers.read(loader):
                    batch = share[progress.done : progress.done + len(items)]
                    for row, item in zip(batch, items, strict=True):
                        if isinstance(item, DroppedSample):
                            if item.reason == FATAL:
                                raise UserError(f"stage {self.stage}: {item.message}")
                            continue
                        for number, keys in enumerate(item):
                            for view, key in enumerate(keys):
                                locations_by_key.setdefault(key, (row, number, view))
                    progress.advance(len(items))

        self._on_all(work)
        gathered = list(locations_by_key.items())
        if self.accelerator.num_processes > 1:
            gathered = gather_object(gathered)
        locations: dict[bytes, ImageLocation] = {}
        for key, location in sorted(gathered, key=lambda item: item[1]):
            locations.setdefault(key, location)
        return locations

    def _progress(self, unit: str, total: int) -> Progress:
        quiet = not self.accelerator.is_main_process
        return Progress(f"features for {self.stage}", total, unit=unit, quiet=quiet)

    def _check_room(self, store: FeatureStore, images: int, missing: int) -> str:
        """A line about the features to compute; raises `UserError` if disk or `limit_gb` is too small for them."""
        root, new = Path(self.settings.path), missing * store.entry_bytes
        used = sum(file.stat().st_size for file in root.rglob("*.data"))
        free, limit = shutil.disk_usage(root).free, self.settings.limit_gb
        things = "images" if self.model.views is None else "views of images"
        need = f"features for {self.stage}: {images} {things}, {missing} of them to compute, {size(new)}"
        if missing and limit is not None and used + new > limit * 1e9:
            raise UserError(
                f"{need}; {root} already holds {size(used)}, and feature_cache.limit_gb allows {limit:g} GB: "
                "raise it, empty the folder, or leave feature_cache out"
            )
        if new > free:
            raise UserError(
                f"{need}; {root} has {size(free)} free: name another feature_cache.path, or leave feature_cache out"
            )
        return f"{need} ({size(store.entry_bytes)} each); in {store.folder}, {size(free)} free"

    def _fill(self, store: FeatureStore, missing: UncachedImages) -> None:
        """Compute and store this process's share of the missing features."""
        with torch.no_grad(), Writer(store) as writer:
            self._check_encoder(store, writer)
            if not len(missing):
                return
            batch_size, share = self._invariant_batch_size(), self._share(range(len(missing)))
            loader = DataLoader(
                missing,
                batch_size=batch_size,
                sampler=share,
                num_workers=self.workers,
                collate_fn=list,
                worker_init_fn=data_workers.start_training_worker,
            )
            with self._progress("images", len(share)) as progress:
                views: list[tuple[bytes, Tensor]] = []
                for items in data_workers.read(loader):
                    views += [view for item in items for view in item]
                    progress.advance(len(items))
                    while len(views) >= batch_size or (views and progress.done == len(share)):
                        for key, features in self._encoded(views[:batch_size], batch_size):
                            writer.add(key, features)
                        del views[:batch_size]

    def _encoded(
        self, items: Sequence[tuple[bytes, Tensor]], batch_size: int
    ) -> Iterator[tuple[bytes, Tensor]]:
        """(key, features) of a batch that is padded with blank images to `batch_size`."""
        if items:
            pixels = torch.stack([pixels for _, pixels in items])
            blank = pixels.new_zeros(batch_size - len(items), *pixels.shape[1:])
            yield from zip([key for key, _ in items], self._encode(torch.cat([pixels, blank])), strict=False)

    def _encode(self, pixels: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return self.model.encode(pixels.to(self.accelerator.device)).to(self.dtype).cpu()

    def _invariant_batch_size(self) -> int:
        """The largest of `BATCH_SIZES` for which an image's features don't depend on its position in the batch.

        Rounding depends on shape and position, not on values, so that random pixels are a valid test.
        """
        for count in BATCH_SIZES:
            generator = torch.Generator().manual_seed(0)
            pixels = torch.rand(count, 3, *self.model.encoder.image_size, generator=generator)
            moved = torch.cat([torch.zeros_like(pixels[:1]), pixels[:-1]])
            if torch.equal(self._encode(pixels)[:-1], self._encode(moved)[1:]):
                return count
        return 1

    def _check_encoder(self, store: FeatureStore, writer: Writer) -> None:
        """Compare a test picture's features with the cached ones: the encoder's code may have changed."""
        key = image_key(sample_picture())
        features = self._encode(sample_pixels(self.model.encoder)[None])[0]
        cached = store.get(key)
        if cached is None:
            if self.accelerator.is_main_process:
                writer.add(key, features)
            return
        cached, features = cached.float(), features.float()
        difference = float((cached - features).norm() / cached.norm().clamp_min(1e-30))
        if not difference <= TOLERANCE[self.dtype]:
            raise UserError(
                f"{store.folder}: its features differ by {difference:.1e} from those of this encoder: they come from "
                "other code or another device. Remove the folder, or name another feature_cache.path"
            )
