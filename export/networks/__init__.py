"""Networks in torch: `edge` and `paper` backbones, and the probability models of training."""
