"""Checksums in checkpoints: a bit that has flipped on the disk is an error when it is read."""

import functools
from typing import Any

from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace


def probe_checksums() -> str | None:
  from orbax.checkpoint._src.serialization import tensorstore_utils

  build = getattr(tensorstore_utils, "_build_zarr3_metadata", None)
  if build is None:
    return "saves with an Orbax that has no _build_zarr3_metadata"
  if problem := parameters(build, "global_shape", "chunk_shape", "use_compression"):
    return f"saves with an Orbax whose _build_zarr3_metadata {problem}"
  (codec,) = build((1,), (1,), True)["codecs"]
  if codec["name"] != "sharding_indexed":
    return f"saves with an Orbax whose arrays are written with the codec {codec['name']}"
  return None


def apply_checksums() -> Undo:
  """Orbax has no option for it; any reader of Zarr 3 knows the codec, and checks it."""
  from orbax.checkpoint._src.serialization import tensorstore_utils

  original: Any = tensorstore_utils._build_zarr3_metadata

  @functools.wraps(original)
  def build(*args, **more):
    metadata = original(*args, **more)
    metadata["codecs"][0]["configuration"]["codecs"].append({"name": "crc32c"})
    return metadata

  return replace(tensorstore_utils, "_build_zarr3_metadata", build)
