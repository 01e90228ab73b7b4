"""Every paper whose claims can be tested here, by the name `kbit study --paper` takes."""

from analysis.claims.four_bit.paper import PAPER as FOUR_BIT
from analysis.claims.fptq.paper import PAPER as FPTQ
from analysis.claims.gptq.paper import PAPER as GPTQ
from analysis.claims.intriguing.paper import PAPER as INTRIGUING
from analysis.claims.paper import Paper

PAPERS: dict[str, Paper] = {paper.name: paper for paper in (FOUR_BIT, GPTQ, FPTQ, INTRIGUING)}
