"""Discrete-event simulations of engines whose costs are known.

base   costs of a stage and of a message, and the forecast      decoupled, pipelined, whole   the engines

Pure arithmetic on seconds: no network runs, no clock is read, and equal costs give equal forecasts.
"""

from launch.planning.simulator.base import Forecast as Forecast
from launch.planning.simulator.base import MessageCost as MessageCost
from launch.planning.simulator.base import StageCost as StageCost
from launch.planning.simulator.decoupled import forecast_decoupled as forecast_decoupled
from launch.planning.simulator.pipelined import SCHEDULES as SCHEDULES
from launch.planning.simulator.pipelined import forecast_pipelined as forecast_pipelined
from launch.planning.simulator.whole import forecast_backprop as forecast_backprop
from launch.planning.simulator.whole import forecast_ddp as forecast_ddp
