"""CBAM: one gate per channel, then one per position (a row of Table 2)."""

from timm.layers.cbam import CbamModule
from torch import nn

from ggam.methods.insertion import InsertedAttention, OpenGate


class CBAM(InsertedAttention):
    """Convolutional block attention: one gate per channel, then one per position.

    No published weights have CBAM in them, so that with placement `blocks` it is always inserted,
    identity-safe, see `InsertedAttention`.
    """

    source = "Woo et al., «CBAM: Convolutional Block Attention Module», 2018"

    @staticmethod
    def build_attention(channels: int) -> CbamModule:
        """The module of timm with r = 16 and a 7×7 spatial kernel, both gates open.

        The spatial gate is opened by its norm's scale, not by its kernel: behind a kernel of zeros the
        norm would see a constant, and multiply the kernel's gradient by 1/√ε ≈ 316.
        The kernel and the first channel layer learn from the second step on.
        """
        module = CbamModule(channels, gate_layer=OpenGate)
        nn.init.zeros_(module.channel.fc2.weight)
        norm = module.spatial.conv.bn
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        return module
