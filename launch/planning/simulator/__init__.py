"""Discrete-event simulations of engines whose costs are known.

base   costs of a stage and of a message, and the steady state      decoupled, pipelined, whole   the engines

Pure arithmetic on seconds: no network runs, no clock is read, and equal costs give equal results.
"""

from launch.planning.simulator.base import MessageCost as MessageCost
from launch.planning.simulator.base import StageCost as StageCost
from launch.planning.simulator.base import SteadyState as SteadyState
from launch.planning.simulator.decoupled import simulate_decoupled as simulate_decoupled
from launch.planning.simulator.pipelined import SCHEDULES as SCHEDULES
from launch.planning.simulator.pipelined import simulate_pipelined as simulate_pipelined
from launch.planning.simulator.whole import simulate_backprop as simulate_backprop
from launch.planning.simulator.whole import simulate_ddp as simulate_ddp
