"""DNI in an ordinary training loop, in one process: `net = DNI(net)`.

dni         the wrapper: finds the layers, hooks them, and trains
layers      which modules are wrapped              layout   their outputs as SG networks see them
interface   one wrapped layer and its SG network   maker    which SG network a layer gets
updates     when SG networks and weights are updated
"""

from dni_async.wrapper.dni import CDNI as CDNI
from dni_async.wrapper.dni import DNI as DNI
