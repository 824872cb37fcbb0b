"""Networks in torch: `edge`, `paper` and `balle` backbones, and the probability models of training."""
