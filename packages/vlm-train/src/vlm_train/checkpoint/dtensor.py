"""Local shards of tensors that FSDP2 has sharded, and the rows that they are."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor; any other tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_of(count: int, rank: int, world: int) -> slice:
    """The rows of process `rank`: `ceil(count / world)` for each, fewer or none for the last ones."""
    size = -(-count // world)
    return slice(*(min((rank + i) * size, count) for i in (0, 1)))


def shard_rows(tensor: Tensor) -> slice | None:
    """The rows of a sharded tensor that are on this process, as FSDP2 divides them; None for an unsharded tensor."""
    if not isinstance(tensor, DTensor):
        return None
    mesh = tensor.device_mesh
    return rows_of(tensor.shape[0], mesh.get_local_rank(), mesh.size())


def sharded_like(tensor: Tensor, shard: Tensor) -> Tensor:
    """A DTensor with the placement of `tensor`, made from each process's `shard`; `shard` if `tensor` is none."""
    if not isinstance(tensor, DTensor):
        return shard
    return DTensor.from_local(
        shard, tensor.device_mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride()
    )
