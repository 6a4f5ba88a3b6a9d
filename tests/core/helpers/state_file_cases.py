"""State files whose content is replaced under valid checksums."""

import json

from safetensors.torch import load_file, save

from vlm_core.io.checksum import with_checksum
from vlm_core.io.digests import of_tensor
from vlm_core.states.tensor_file import MANIFEST


def manifest_of(file):
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"][MANIFEST])


def rewrite(file, tensors=None, hashes=None, facts=None):
    """Replace tensors, their hashes or entries of the manifest (`facts`) under valid checksums."""
    manifest = {k: v for k, v in manifest_of(file).items() if k != "sha256"}
    tensors = {**load_file(file), **(tensors or {})}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    listed = {name: of_tensor(tensor) for name, tensor in tensors.items()} if hashes is None else hashes
    manifest |= {**(facts or {}), "tensors": listed}
    file.write_bytes(save(tensors, metadata={MANIFEST: json.dumps(with_checksum(manifest))}))
