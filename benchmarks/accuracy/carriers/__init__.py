"""Carriers on the shapes task: the small model trained to be asked when a step is one token, and what that costs.

| | |
|---|---|
| lives | until when each step's tokens and carrier are seen, by a memory's rules |
| sequences | many questions behind one clip with carriers, as a session would be asked them |
| knowledge | what a carrier is taught to tell |
| network | the model with carriers |
| curriculum, train | VideoScan's two stages |
| modes, tables, report | what is remembered, the experiments, what the README says of them |
"""
