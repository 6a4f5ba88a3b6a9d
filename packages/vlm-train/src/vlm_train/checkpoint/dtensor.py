"""What of a tensor one process holds, when it is sharded by FSDP2."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor, any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_of(count: int, rank: int, world: int) -> slice:
    """Which of `count` rows process `rank` of `world` has: equally many for each, the last ones fewer or none."""
    each = -(-count // world)
    return slice(*(min((rank + i) * each, count) for i in (0, 1)))


def own_rows(tensor: Tensor) -> slice | None:
    """The rows of a sharded tensor that this process holds, as FSDP2 divides them; None for all."""
    if not isinstance(tensor, DTensor):
        return None
    mesh = tensor.device_mesh
    return rows_of(tensor.shape[0], mesh.get_local_rank(), mesh.size())


def sharded_like(tensor: Tensor, own: Tensor) -> Tensor:
    """The tensor of which every process holds `own`, sharded as `tensor` is; `own` itself if that isn't."""
    if not isinstance(tensor, DTensor):
        return own
    return DTensor.from_local(
        own, tensor.device_mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride()
    )
