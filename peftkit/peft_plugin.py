"""Registers bottleneck adapters with PEFT; import this module before plain PEFT loads one."""

from peftkit.methods.bottleneck_tuner import BottleneckConfig, BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckModel"]
