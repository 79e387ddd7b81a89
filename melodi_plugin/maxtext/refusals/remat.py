"""The remat policies of MaxText, by their names: a config is refused before JAX is imported."""

POLICIES = (
  "none",
  "full",
  "minimal",
  "minimal_with_context",
  "minimal_flash",
  "minimal_with_quantization",
  "minimal_with_context_and_quantization",
  "minimal_offloaded",
  "save_dot_with_context_except_mlp",
  "save_dot_except_mlpwi",
  "save_dot_except_mlp",
  "save_qkv_proj",
  "save_out_proj",
  "qkv_proj_offloaded",
)
CUSTOM = "custom"  # says in other keys what is saved
