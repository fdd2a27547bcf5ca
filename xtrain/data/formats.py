"""What a file is, by its first bytes: so that a wrong one given as data is answered with what it is and what to do."""

import zipfile
from pathlib import Path

# Start of the file -> what it is, and what to do with it.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", "one array without labels (.npy); save images and labels together: np.savez(PATH, train_images=…)"),
    (b"\x89PNG", "a single picture; name the folder that holds one folder of pictures for each class"),
    (b"\xff\xd8\xff", "a single picture; name the folder that holds one folder of pictures for each class"),
    (b"II*\x00", "a single TIFF; name the folder that holds one folder of pictures for each class"),
    (b"MM\x00*", "a single TIFF; name the folder that holds one folder of pictures for each class"),
    (b"II+\x00", "a whole-slide TIFF; cut it into tiles, in one folder for each class"),
    (b"\x89HDF", "an HDF5 file; save its images and labels with np.savez"),
    (b"\x80", "a pickle, which is never loaded because it can run code; save arrays with np.savez"),
    (b"\x1f\x8b", "a gzip archive; unpack it, and name the folder of pictures or the .npz inside"),
    (b"%PDF", "a PDF; name an .npz or a folder of pictures"),
)
DICOM = "DICOM, which is out of scope; export the images as PNG, in one folder for each class"
NIFTI = "NIfTI, a 3-D volume, which is out of scope; xtrain takes 2-D images"


def describe_file(path: Path) -> str:
    """Return what a file that is no readable `.npz` is instead, with what to do; its first bytes decide."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return NIFTI
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror}); check its permissions"
    if head[128:132] == b"DICM":
        return DICOM
    if not head:
        return "an empty file; fetch or save it again"
    if zipfile.is_zipfile(path):
        return "a damaged .npz, or one with arrays of Python objects, which are never loaded; save it again"
    if head.startswith(b"PK"):
        return "a zip archive that is cut off; fetch or save it again"
    for signature, text in _SIGNATURES:
        if head.startswith(signature):
            return text
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "a text file; name an .npz or a folder of pictures"
    return "a file of an unknown kind; name an .npz or a folder of pictures"
