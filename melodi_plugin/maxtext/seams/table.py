"""All seams in one table.  Nothing here runs at import."""

from melodi_plugin.maxtext.seams import (
  attention,
  config,
  data,
  engine,
  flops,
  logs,
  loss,
  model,
  optimizer,
  weights,
)
from melodi_plugin.maxtext.seams.saved import checksums, restore
from melodi_plugin.maxtext.seams.seam import Seam

VERSION = "0.2.5"  # of MaxText

SEAMS = (
  Seam("common.common_types.DecoderBlockType", config.probe_block, config.apply_block),
  Seam("configs.pyconfig._initialize_pydantic", config.probe_initialize, config.apply_initialize),
  Seam("configs.pyconfig._load_config", config.probe_load, config.apply_load),
  Seam("models.models.NNXDecoder", model.probe_decoder, model.apply_decoder),
  Seam("layers.attention_op.AttentionOp", attention.probe_mask, attention.apply_mask),
  Seam(
    "models.qwen3.Qwen3NextGatedDeltaNet",
    attention.probe_delta_net,
    attention.apply_delta_net,
  ),
  Seam("utils.train_utils.jit_eval_step", model.probe_eval_step, model.apply_eval_step),
  Seam(
    "input_pipeline.input_pipeline_interface.make_grain_*_iterator",
    data.probe_iterators,
    data.apply_iterators,
  ),
  Seam("common.data_loader.loader_exception_guard", data.probe_guard, data.apply_guard),
  Seam(
    "common.checkpoint_context.build_context",
    checksums.probe_checksums,
    checksums.apply_checksums,
  ),
  Seam("common.checkpointing.load_state_if_possible", restore.probe_restore, restore.apply_restore),
  Seam(
    "common.checkpointing.load_params_from_path",
    weights.probe_load_params,
    weights.apply_load_params,
  ),
  Seam("configs.types.OptimizerType", optimizer.probe_type, optimizer.apply_type),
  Seam(
    "optimizers.optimizers.get_muon_weight_dimension_numbers",
    optimizer.probe_muon,
    optimizer.apply_muon,
  ),
  Seam("optimizers.optimizers.get_optimizer", optimizer.probe_optimizer, optimizer.apply_optimizer),
  Seam(
    "utils.maxtext_utils.create_learning_rate_schedule",
    optimizer.probe_schedule,
    optimizer.apply_schedule,
  ),
  Seam(
    "utils.maxtext_utils.calculate_tflops_training_per_device",
    flops.probe_flops,
    flops.apply_flops,
  ),
  Seam("trainers.pre_train.train.loss_fn", loss.probe_loss, loss.apply_loss),
  Seam("trainers.pre_train.train.train_step", loss.probe_step, loss.apply_step),
  Seam(
    "trainers.pre_train.train.gradient_accumulation_loss_and_grad",
    loss.probe_accumulation,
    loss.apply_accumulation,
  ),
  Seam("common.metric_logger.MetricLogger", logs.probe_metrics, logs.apply_metrics),
  Seam("common.gcloud_stub._jetstream_stubs", engine.probe_results, engine.apply_results),
  Seam(
    "utils.model_creation_utils.from_pretrained",
    engine.probe_parameters,
    engine.apply_parameters,
  ),
)
