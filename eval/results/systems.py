"""Names of the systems that an evaluation compares."""

MODEL = 'MAT'
MEAN_COLOUR = 'mean colour'
BASELINE = 'baseline'  # MAT in another evaluation; classical methods have names of their own
