"""How fast an engine would be: discrete-event simulations of stages whose costs are known.

Pure arithmetic on numbers of seconds: no network runs, no clock is read, and the same costs always give
the same forecast.
"""

from launch.planning.simulator.base import Forecast as Forecast
from launch.planning.simulator.base import MessageCost as MessageCost
from launch.planning.simulator.base import StageCost as StageCost
from launch.planning.simulator.decoupled import forecast_decoupled as forecast_decoupled
from launch.planning.simulator.pipelined import SCHEDULES as SCHEDULES
from launch.planning.simulator.pipelined import forecast_pipelined as forecast_pipelined
from launch.planning.simulator.whole import forecast_backprop as forecast_backprop
from launch.planning.simulator.whole import forecast_ddp as forecast_ddp
