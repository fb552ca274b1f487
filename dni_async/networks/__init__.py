"""SG networks, which predict dL/dh from h (B, ...) and, if conditional, from the labels.

base ◄─ linear, mlp, conv, head, least_squares; classic and rnn (those of pytorch-dni)
registry    networks by name or dotted path     factory     builds the network of an interface
settings    options of SG networks              auxiliary   the head of rule local
norm        batch normalisation as SG networks use it
"""

from dni_async.networks.auxiliary import AuxiliaryHead as AuxiliaryHead
from dni_async.networks.base import DNINetwork as DNINetwork
from dni_async.networks.classic import Conv2dDNI as Conv2dDNI
from dni_async.networks.classic import LinearBatchNormDNI as LinearBatchNormDNI
from dni_async.networks.classic import LinearDNI as LinearDNI
from dni_async.networks.classic import LinearSigmoidDNI as LinearSigmoidDNI
from dni_async.networks.conv import ConvSG as ConvSG
from dni_async.networks.head import ClassifierSG as ClassifierSG
from dni_async.networks.head import FeatureHeadSG as FeatureHeadSG
from dni_async.networks.head import HeadSG as HeadSG
from dni_async.networks.head import TokenHeadSG as TokenHeadSG
from dni_async.networks.least_squares import LeastSquaresSG as LeastSquaresSG
from dni_async.networks.linear import LinearSG as LinearSG
from dni_async.networks.mlp import MlpSG as MlpSG
from dni_async.networks.rnn import RNNDNI as RNNDNI
from dni_async.networks.token_attention import TokenAttentionSG as TokenAttentionSG
