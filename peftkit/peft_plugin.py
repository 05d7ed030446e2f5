"""Import this before plain PEFT loads a bottleneck adapter: it registers the method with PEFT."""

from peftkit.methods.bottleneck_tuner import BottleneckConfig, BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckModel"]
