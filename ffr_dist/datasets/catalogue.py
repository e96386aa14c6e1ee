"""What data a recipe can name, in words: what is learnt, what must lie where, and what it is called.

Nothing is downloaded, and nothing is read here: it must be told before there is any data.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from textwrap import dedent

from ffr_dist.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One kind of data."""

    kind: str
    title: str
    learnt: str
    """The label, and the bias that goes with it."""
    files: str
    """What lies where, one path a line; empty for data that needs no files."""
    groups: str
    splits: str
    origin: str
    """Who publishes it, and what is known of its terms."""
    data: str
    """The ``data:`` of a recipe, as YAML."""


def catalogue() -> tuple[Entry, ...]:
    """All kinds, published ones by name, then one's own."""
    return _ENTRIES


def entry(kind: str) -> Entry:
    """The entry of a kind."""
    known = {found.kind: found for found in _ENTRIES}
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"no data of kind {kind!r}; {hint}")
    return known[kind]


def _entry(**parts: str) -> Entry:
    return Entry(**{name: dedent(text).strip() for name, text in parts.items()})


_OWN = "Yours."
_DISENT = "DisEnt (Lee et al., NeurIPS 2021) publishes it"

_ENTRIES = (
    _entry(
        kind="bar",
        title="BAR, biased actions",
        learnt="one of six actions; the place, which is not told",
        files="""
            data/BAR/train/climbing_0.jpg …
            data/BAR/test/climbing_0.jpg …
            """,
        groups="The six actions, with bias -1: climbing, diving, fishing, racing, throwing, vaulting.",
        splits="""
            There is no validation set: val_share of each action's training images is held out. The test set is of unusual
            places only. The re-cut of BiasEnsemble is another benchmark, and refused.
            """,
        origin="LfF (Nam et al., NeurIPS 2020) publishes it; the photographs are from the web, and their owners' rights remain.",
        data="""
            kind: bar
            root: data/BAR
            val_share: 0.1
            split_seed: 0
            """,
    ),
    _entry(
        kind="bffhq",
        title="bFFHQ, biased faces",
        learnt="young or old; women or men",
        files="""
            data/bffhq/0.5pct/align/{0,1}/{id}_{label}_{bias}.png
            data/bffhq/0.5pct/conflict/{0,1}/…
            data/bffhq/valid/…
            data/bffhq/test/…
            """,
        groups="young_women, young_men, old_women, old_men; the first and the last are aligned.",
        splits="The published number scores the conflicting half of the test set alone: read 'conflicting', not 'micro'.",
        origin=f"{_DISENT}; made of FFHQ, whose terms exclude commercial use.",
        data="""
            kind: bffhq
            root: data/bffhq
            bias_ratio: 0.995        # 0.5pct; 0.99, 0.98, 0.95 where their folders are there
            """,
    ),
    _entry(
        kind="celeba",
        title="CelebA, aligned faces with 40 attributes",
        learnt="any attribute; any other (blond hair and gender where nothing is said)",
        files="""
            data/celeba/img_align_celeba/000001.jpg … 202599.jpg
            data/celeba/list_attr_celeba.txt          or .csv
            data/celeba/list_eval_partition.txt       or .csv
            """,
        groups="Four, as in blond_hair_male and not_blond_hair_female.",
        splits="The official ones, 162,770, 19,867 and 19,962 images; bias_ratio thins train and val.",
        origin="MMLAB, The Chinese University of Hong Kong; for research that is not commercial.",
        data="""
            kind: celeba
            root: data/celeba
            label: Blond_Hair
            bias: Male
            bias_ratio: null         # as it is; 0.9 … below 1: thinned as in the paper
            """,
    ),
    _entry(
        kind="celeba_hq",
        title="CelebA-HQ, 30,000 faces of CelebA",
        learnt="any attribute; any other (smiling and gender where nothing is said)",
        files="""
            data/CelebAMask-HQ/CelebA-HQ-img/0.jpg … 29999.jpg
            data/CelebAMask-HQ/CelebAMask-HQ-attribute-anno.txt
            data/CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt     for split: official
            data/CelebAMask-HQ/list_eval_partition.txt             for split: official; CelebA's
            """,
        groups="Four, as in smiling_male and not_smiling_female.",
        splits="80, 10 and 10 % by a hash of the names, or CelebA's own; bias_ratio thins train and val as the paper does.",
        origin="CelebAMask-HQ, of the makers of CelebA; for research that is not commercial.",
        data="""
            kind: celeba_hq
            root: data/CelebAMask-HQ
            label: Smiling
            bias: Male
            split: hash              # or official
            bias_ratio: 0.95
            """,
    ),
    _entry(
        kind="cifar10",
        title="CIFAR-10, with the backgrounds of CIFAR10-B",
        learnt="one of ten classes; the background, known of test images alone",
        files="""
            data/cifar-10-batches-py/data_batch_1 … data_batch_5, test_batch, batches.meta
            data/cifar10_bgd_cl2img_gp_fine.npy                    for the test's groups
            """,
        groups="Train and val: the classes, with bias -1. Test: the pairs of class and background that occur, 77 of 80.",
        splits="val is cut from train, the same number of each class.",
        origin="University of Toronto, without stated terms; the backgrounds under BSD-3-Clause.",
        data="""
            kind: cifar10
            root: data/cifar-10-batches-py
            backgrounds: data/cifar10_bgd_cl2img_gp_fine.npy
            val: 5000
            """,
    ),
    _entry(
        kind="cifar100",
        title="CIFAR-100, with the backgrounds of CIFAR100-B",
        learnt="one of a hundred classes; the background, known of test images alone",
        files="""
            data/cifar-100-python/train, test, meta
            data/cifar100_bgd_cl2img_gp_fine.npy                   for the test's groups
            """,
        groups="As of cifar10; 722 of 800 pairs occur, many with one image.",
        splits="val is cut from train, the same number of each class.",
        origin="University of Toronto, without stated terms; the backgrounds under BSD-3-Clause.",
        data="""
            kind: cifar100
            root: data/cifar-100-python
            backgrounds: data/cifar100_bgd_cl2img_gp_fine.npy
            val: 5000
            """,
    ),
    _entry(
        kind="cmnist",
        title="Coloured MNIST",
        learnt="one of ten digits; one of ten colours",
        files="""
            data/cmnist/0.5pct/align/{0…9}/{id}_{label}_{bias}.png
            data/cmnist/0.5pct/conflict/{0…9}/…
            data/cmnist/0.5pct/valid/…
            data/cmnist/test/…                                     and 1pct, 2pct, 5pct likewise
            """,
        groups="digit_0_colour_0 … digit_9_colour_9; equal numbers are aligned. Colours are known by number.",
        splits="Training declares all hundred pairs, or with 'train_groups: held' those that it has images of.",
        origin=f"{_DISENT}, without stated terms; made of MNIST.",
        data="""
            kind: cmnist
            root: data/cmnist
            bias_ratio: 0.995        # 0.5pct; 0.99, 0.98, 0.95: 1pct, 2pct, 5pct
            train_groups: all
            """,
    ),
    _entry(
        kind="corrupted_cifar10",
        title="Corrupted CIFAR-10 (not the test set CIFAR-10-C)",
        learnt="one of ten classes; one of ten corruptions",
        files="""
            data/cifar10c/0.5pct/align/{0…9}/{id}_{label}_{bias}.png
            data/cifar10c/0.5pct/conflict/{0…9}/…
            data/cifar10c/0.5pct/valid/…
            data/cifar10c/test/…                                   and 1pct, 2pct, 5pct likewise
            """,
        groups="airplane_corruption_0 … truck_corruption_9; equal numbers are aligned. Corruptions are known by number.",
        splits="Training declares all hundred pairs, or with 'train_groups: held' those that it has images of.",
        origin=f"{_DISENT}, without stated terms; made of CIFAR-10 with the corruptions of LfF.",
        data="""
            kind: corrupted_cifar10
            root: data/cifar10c
            bias_ratio: 0.995        # 0.5pct; 0.99, 0.98, 0.95: 1pct, 2pct, 5pct
            train_groups: all
            """,
    ),
    _entry(
        kind="metashift",
        title="MetaShift, cats and dogs",
        learnt="cat or dog; what is around it, in the test something that training never shows",
        files="""
            data/metashift/train/cat/cat(sofa)/ cat(bed)/    train/dog/dog(bench)/ dog(bike)/
            data/metashift/test/cat/cat(shelf)/              test/dog/dog(shelf)/
            """,
        groups="Train: cat_sofa, cat_bed, dog_bench, dog_bike. Val and test: cat_shelf, dog_shelf.",
        splits="15 % of the images beside shelves are val. The variant of DISC and DaC: others are not comparable.",
        origin="Stanford University; photographs of Visual Genome.",
        data="""
            kind: metashift
            root: data/metashift
            """,
    ),
    _entry(
        kind="spuco_animals",
        title="SpuCo Animals",
        learnt="land bird, water bird, small dog or big dog; the background",
        files="""
            data/spuco-animals/spuco_birds/{train,val,test}/{landbirds,waterbirds}/{land,water}/
            data/spuco-animals/spuco_dogs/{train,val,test}/{small_dogs,big_dogs}/{indoor,outdoor}/
            """,
        groups="Eight: birds on land and water, dogs indoors and outdoors.",
        splits="As published, at 0.95; bias_ratio thins train and val further. The test set is balanced.",
        origin="SpuCo (Joshi et al.); crops of ImageNet, whose terms hold.",
        data="""
            kind: spuco_animals
            root: data/spuco-animals
            bias_ratio: null         # as published, 0.95; or higher
            """,
    ),
    _entry(
        kind="utkface",
        title="UTKFace",
        learnt="gender; age, or race",
        files="data/UTKFace/{age}_{gender}_{race}_{date}.jpg.chip.jpg    or the plain ones, .jpg; not both",
        groups="male_old, male_young, female_old, female_young; with 'bias: race' ten.",
        splits="80, 10 and 10 % by a hash of the names; bias_ratio thins train and val as the paper does.",
        origin="University of Tennessee, Knoxville; for research that is not commercial.",
        data="""
            kind: utkface
            root: data/UTKFace
            bias: age                # or race
            bias_ratio: 0.95
            """,
    ),
    _entry(
        kind="waterbirds",
        title="Waterbirds",
        learnt="land bird or water bird; land or water behind it",
        files="""
            data/waterbird_complete95_forest2water2/metadata.csv
            data/waterbird_complete95_forest2water2/001.Black_footed_Albatross/…
            """,
        groups="landbird_land, landbird_water, waterbird_land, waterbird_water.",
        splits="As the table has them; val and test are balanced within each class. bias_ratio thins train.",
        origin="Sagawa et al., ICLR 2020; made of CUB and Places, whose terms hold.",
        data="""
            kind: waterbirds
            root: data/waterbird_complete95_forest2water2
            mislabelled: as_published
            """,
    ),
    _entry(
        kind="embedded",
        title="The embedded world, which needs no files",
        learnt="is a handwritten digit five or more; the photograph behind it",
        files="",
        groups="low_temple, low_flowers, high_temple, high_flowers.",
        splits="train and val at bias_ratio, drawn by a study's seed; a balanced test; the shipped generator's own images.",
        origin="Made of digits and photographs that come with scikit-learn.",
        data="""
            kind: embedded
            bias_ratio: 0.95
            """,
    ),
    _entry(
        kind="folder",
        title="A folder of images and a table of labels",
        learnt="what the table's columns say",
        files="""
            data/labels.csv                                        or .parquet: file, label, bias, split
            data/images/…
            """,
        groups="Those that the recipe declares.",
        splits="Those that the table's column says.",
        origin=_OWN,
        data="""
            kind: folder
            table: data/labels.csv
            images: data/images
            columns: {file: file, label: label, bias: bias, split: split}
            classes: {cat: 0, dog: 1}
            biases: {sofa: 0, garden: 1}
            groups: {cat_sofa: [0, 0], cat_garden: [0, 1], dog_sofa: [1, 0], dog_garden: [1, 1]}
            """,
    ),
    _entry(
        kind="huggingface",
        title="A dataset of the Hugging Face Hub, or in its layout",
        learnt="what two of its columns say",
        files="""
            data/pets/data/train-00000-of-00002.parquet …          images inside: a column of bytes, or {bytes, path}
            data/pets/data/validation-00000-of-00001.parquet …
            data/pets/data/test-00000-of-00001.parquet …
            or data/pets/train/metadata.csv, data/pets/train/1.jpg …   metadata.jsonl and .parquet too
            or data/pets/train/cat/1.jpg …
            """,
        groups="Those that the recipe declares, or the pairs that each split holds, called as its class and bias names are.",
        splits="The dataset's own; with val_share a part of train where it has no validation split.",
        origin=_OWN,
        data="""
            kind: huggingface
            root: data/pets          # or hf://datasets/owner/name
            label: label
            bias: place              # null: nobody knows it
            biases: {sofa: 0, garden: 1}
            """,
    ),
    _entry(
        kind="webdataset",
        title="WebDataset tars that others wrote",
        learnt="the .cls, or a field of the .json; another field",
        files="""
            data/train-0000.tar …                                  0001.jpg, 0001.cls, 0001.json, 0002.jpg …
            data/val-0000.tar …
            data/test-0000.tar …
            """,
        groups="Those that the recipe declares, or label_0_bias_0 … for the pairs that each split holds.",
        splits="A pattern of tars for each.",
        origin=_OWN,
        data="""
            kind: webdataset
            train: data/train-{0000..0099}.tar
            val: data/val-*.tar
            test: data/test-*.tar
            label: null              # the .cls; or a field of the .json
            bias: place              # null: nobody knows it
            """,
    ),
)
