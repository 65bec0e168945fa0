"""STU-Net: the scales, the network, what it costs, and its published weights."""
