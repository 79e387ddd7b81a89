"""Kinds of parameters, by their paths in a model of MaxText."""

# Where a decoder keeps what memory adds to a stock block; regular expressions on parameter paths.
MEMORY_PREFIX, SUMMARY_TABLE = "memory_layers_", "summary_embeddings"
MEMORY_PATTERNS = (f"decoder/{MEMORY_PREFIX}", f"decoder/{SUMMARY_TABLE}")


def is_memory_parameter(path: str) -> bool:
  """Whether memory adds the parameter at this path to a stock model."""
  return any(pattern in path for pattern in MEMORY_PATTERNS)


TEMPERATURES = ("temperature", "cross_temperature", "long_temperature")
SCALARS = (*TEMPERATURES, "gate", "offset")
# Tensors of two axes that are no matrices: each row is a parameter by itself.
TABLES = ("position_bias", "initial", "positions", SUMMARY_TABLE)
# What weight decay would only hold back, in layers of ours; regular expressions on paths.
UNDECAYED_PATTERNS = (
  r"decoder/layers_\d.*(norm|temperature|gate|bias|initial|positions)$",
  "decoder/decoder_norm",
  f"decoder/{SUMMARY_TABLE}",
)


def is_scalar(path: str) -> bool:
  """Whether the parameter at this path is one of `SCALARS`, of a layer of ours."""
  return path.rsplit("/", 1)[-1] in SCALARS
