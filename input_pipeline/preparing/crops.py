"""Square crops of a picture around the head of its figure."""

from input_pipeline.preparing.heads import Head

# name -> side in radii of the head, and where its centre lies in the crop, from the upper left.
_AROUND = {
    'shoulders': (5.6, 0.5, 0.4),
    'head': (3.8, 0.5, 0.45),
    'aside': (4.6, 0.36, 0.42),
}
KINDS = ('top', *_AROUND)

Box = tuple[int, int, int, int]


def crop_box(kind: str, size: tuple[int, int], head: Head, min_side: int = 1) -> Box:
  """Chooses the square of a crop.

  Args:
    kind: 'top' for what `images.square` takes with that name: the short side, from the top, in
      the centre of the width; 'shoulders', 'head' and 'aside' for the surroundings of the head,
      which is off centre in the last one.
    size: width and height of the picture, in pixels.
    head: in the picture.
    min_side: of the crop, in pixels, as far as the picture is that large.

  Returns:
    Left, top, right and bottom, in pixels, within the picture.
  """
  width, height = size
  short = min(width, height)
  if kind == 'top':
    left = (width - short) // 2
    return left, 0, left + short, short
  radii, across, down = _AROUND[kind]
  side = min(short, max(min_side, round(radii * head.radius)))
  left = min(max(round(head.x - across * side), 0), width - side)
  top = min(max(round(head.y - down * side), 0), height - side)
  return left, top, left + side, top + side
