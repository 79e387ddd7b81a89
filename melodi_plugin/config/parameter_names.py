"""Where parameters of memory lie among those of a model, by their paths."""

# Where a decoder keeps what memory adds to a stock block; regular expressions on parameter paths.
MEMORY_PREFIX, SUMMARY_TABLE = "memory_layers_", "summary_embeddings"
MEMORY_PATTERNS = (f"decoder/{MEMORY_PREFIX}", f"decoder/{SUMMARY_TABLE}")


def is_memory_parameter(path: str) -> bool:
  """Whether memory adds the parameter at this path to a stock model."""
  return any(pattern in path for pattern in MEMORY_PATTERNS)


def is_gate(path: str) -> bool:
  """Whether the parameter at this path is a gate or an offset of memory around a stock block."""
  return is_memory_parameter(path) and path.rsplit("/", 1)[-1] in ("gate", "offset")
