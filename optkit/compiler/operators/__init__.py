"""What the fused operators compute, as tensor expressions, with nothing said about schedules."""
