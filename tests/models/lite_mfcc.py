"""A TensorFlow Lite file of the custom ops `AudioSpectrogram` and `Mfcc`."""

import numpy as np


def _options(**values: float | int | bool) -> bytes:
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    adders = {bool: builder.Bool, int: builder.Int, float: builder.Float}
    with builder.Map():
        for name, value in values.items():
            adders[type(value)](name, value)
    return bytes(builder.Finish())


def mfcc_model(
    *,
    num_samples: int,
    rate: int,
    frame: int,
    hop: int,
    num_mels: int,
    num_mfcc: int,
    low_hz: float = 20.0,
    high_hz: float = 4000.0,
) -> bytes:
    """`[N, 1]` to tensor 2, powers `[1, T, F]`, and 3, cepstra `[1, T, num_mfcc]`."""
    import flatbuffers
    import tflite

    builder = flatbuffers.Builder(1024)

    def vector(start, items, *, of_tables):
        start(builder, len(items))
        for item in reversed(items):
            if of_tables:
                builder.PrependUOffsetTRelative(item)
            else:
                builder.PrependInt32(item)
        return builder.EndVector()

    def table(name, **fields):
        """`Tensor(name=...)` by the functions that the package has for each field."""
        getattr(tflite, f"{name}Start")(builder)
        for field, value in fields.items():
            getattr(tflite, f"{name}Add{field}")(builder, value)
        return getattr(tflite, f"{name}End")(builder)

    def tensor(name, shape, type_, buffer):
        name = builder.CreateString(name)
        shape = vector(tflite.TensorStartShapeVector, shape, of_tables=False)
        return table("Tensor", Name=name, Shape=shape, Type=type_, Buffer=buffer)

    def operator(index, inputs, outputs, options):
        options = builder.CreateByteVector(options)
        inputs = vector(tflite.OperatorStartInputsVector, inputs, of_tables=False)
        outputs = vector(tflite.OperatorStartOutputsVector, outputs, of_tables=False)
        return table(
            "Operator",
            OpcodeIndex=index,
            Inputs=inputs,
            Outputs=outputs,
            CustomOptions=options,
        )

    def code(name):
        custom = tflite.BuiltinOperator.CUSTOM
        name = builder.CreateString(name)
        return table("OperatorCode", BuiltinCode=custom, CustomCode=name, Version=1)

    num_frames = 1 + (num_samples - frame) // hop
    num_bins = (1 << (frame - 1).bit_length()) // 2 + 1
    float32, int32 = tflite.TensorType.FLOAT32, tflite.TensorType.INT32
    tensors = [
        tensor("waveform", [num_samples, 1], float32, 0),
        tensor("rate", [1], int32, 1),
        tensor("power", [1, num_frames, num_bins], float32, 0),
        tensor("mfcc", [1, num_frames, num_mfcc], float32, 0),
    ]
    of_spectrogram = _options(window_size=frame, stride=hop, magnitude_squared=True)
    of_mfcc = _options(
        upper_frequency_limit=high_hz,
        lower_frequency_limit=low_hz,
        filterbank_channel_count=num_mels,
        dct_coefficient_count=num_mfcc,
    )
    operators = [
        operator(0, [0], [2], of_spectrogram),
        operator(1, [2, 1], [3], of_mfcc),
    ]
    codes = [code("AudioSpectrogram"), code("Mfcc")]
    tensors = vector(tflite.SubGraphStartTensorsVector, tensors, of_tables=True)
    inputs = vector(tflite.SubGraphStartInputsVector, [0], of_tables=False)
    outputs = vector(tflite.SubGraphStartOutputsVector, [2, 3], of_tables=False)
    operators = vector(tflite.SubGraphStartOperatorsVector, operators, of_tables=True)
    graph = table(
        "SubGraph", Tensors=tensors, Inputs=inputs, Outputs=outputs, Operators=operators
    )
    rate_bytes = builder.CreateByteVector(np.int32([rate]).tobytes())
    buffers = [table("Buffer"), table("Buffer", Data=rate_bytes)]
    buffers = vector(tflite.ModelStartBuffersVector, buffers, of_tables=True)
    graphs = vector(tflite.ModelStartSubgraphsVector, [graph], of_tables=True)
    codes = vector(tflite.ModelStartOperatorCodesVector, codes, of_tables=True)
    model = table(
        "Model", Version=3, OperatorCodes=codes, Subgraphs=graphs, Buffers=buffers
    )
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())
