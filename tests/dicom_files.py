"""DICOM series made for tests: every attribute that matters can be changed, one slice or all."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

PLAIN = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def turn(degrees_x=20.0, degrees_z=35.0):
    """Return row and column directions of an oblique stack."""
    a, b = np.radians(degrees_x), np.radians(degrees_z)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    matrix = about_z @ about_x
    return tuple(matrix[:, 0]), tuple(matrix[:, 1])


def make_slices(
    stored, *, spacing=(2.0, 0.7, 0.5), origin=(10.0, -20.0, 30.0), axes=PLAIN, modality="CT", syntax=None, **attributes
):
    """Make the slices of an (z, y, x) int16 array, lowest first; `attributes` are set on each (None removes one)."""
    row, column = np.array(axes)
    normal = np.cross(row, column)
    kind = CTImageStorage if modality == "CT" else MRImageStorage
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    slices = []
    for index, plane in enumerate(stored):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = kind
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
        ds = FileDataset(
            "",
            {},
            file_meta=meta,
            preamble=b"\0" * 128,
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != ExplicitVRBigEndian,
        )
        ds.SOPClassUID, ds.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "42", "Test^Case", "", "O"
        ds.StudyID, ds.AccessionNumber, ds.StudyDate, ds.StudyTime = "1", "", "20260101", "120000"
        ds.ReferringPhysicianName, ds.SeriesNumber = "", 3
        ds.Modality, ds.InstanceNumber, ds.SeriesDescription = modality, index + 1, "body"
        ds.Rows, ds.Columns = plane.shape
        ds.PixelSpacing, ds.SliceThickness = (
            list(spacing[1:]),
            5.0,
        )  # unlike the distance, as overlapping slices have it
        ds.ImagePositionPatient = [f"{value:.9g}" for value in np.array(origin) + index * spacing[0] * normal]
        ds.ImageOrientationPatient = [f"{value:.12g}"[:16] for value in (*row, *column)]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = np.ascontiguousarray(plane, dtype="<i2").tobytes()
        for name, value in attributes.items():
            if value is None:
                delattr(ds, name)
            else:
                setattr(ds, name, value)
        slices.append(ds)
    return slices


def write_slices(folder, slices, *, seed=0):
    """Write slices under names in an order of their own, without ending; return the files, lowest slice first."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(seed).permutation(len(slices))
    files = [folder / f"IM{number:04d}" for number in numbers]
    for ds, path in zip(slices, files, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return files
