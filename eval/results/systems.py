"""Names of the systems that an evaluation compares."""

MODEL = 'MAT'
MEAN_COLOUR = 'mean colour'
