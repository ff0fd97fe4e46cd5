"""Layer access: coordinate-wise queries answered by restarting a network at the layer that changed."""

from blackbox.execution.layers.access import LayerAccess

__all__ = ["LayerAccess"]
