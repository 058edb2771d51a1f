"""Blue-green re-embedding: plan, build, verify, promote, soak, roll back, retire, abort.

One file a command. Where a rollout stands is `pipelines.core.rollout`; `docs/rollout.md` draws it.
"""
