"""Fine-tuning: weights a training begins with, the recipes it follows then, and how these steer each step."""
