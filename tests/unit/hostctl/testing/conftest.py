"""What the inner runs of pytester import is imported here, once.

pytester forgets the modules that only its tests have loaded, and asyncio's C half would
not know the exceptions of an asyncio that is loaded again.
"""

from hostctl.testing import guests, model, run, session, views, wish

__all__ = ["guests", "model", "run", "session", "views", "wish"]
