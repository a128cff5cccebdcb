"""Writes the TFLite files that the tests read, with small random weights.

    pip install tensorflow-cpu
    python tests/bridges/tflite_files/make_files.py

TensorFlow is needed for this only. Version 2.21 wrote the files that are stored here.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent
NUM_SAMPLES = 640
NUM_CLASSES = 4
CHUNK = 160


def normal(rng, *shape):
    return tf.constant(
        rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), tf.float32
    )


class Layers(tf.Module):
    """Layers of keyword spotters, over a clip that is folded into rows.

    TensorFlow quantises weights alone from 1,024 numbers on: `point` and `dense`.
    """

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.kernel = normal(rng, 5, 3, 1, 8)
        self.bias = normal(rng, 8)
        self.depthwise = normal(rng, 3, 3, 8, 1)
        self.dilated = normal(rng, 3, 1, 8, 8)
        self.point = normal(rng, 1, 1, 8, 128)
        self.dense = 3.0 * normal(rng, 256, NUM_CLASSES)
        self.dense_bias = normal(rng, NUM_CLASSES)

    @tf.function(input_signature=[tf.TensorSpec([1, NUM_SAMPLES])])
    def __call__(self, x):
        x = tf.reshape(x, [1, 32, 20, 1])
        x = tf.nn.relu6(tf.nn.conv2d(x, self.kernel, [2, 1], "SAME") + self.bias)
        x = tf.nn.depthwise_conv2d(x, self.depthwise, [1, 2, 2, 1], "SAME")
        x = tf.nn.relu(x)
        x = tf.pad(x, [[0, 0], [1, 0], [0, 0], [0, 0]])
        y = tf.nn.conv2d(x, self.dilated, 1, "VALID", dilations=[2, 1])
        x = x[:, 4:] + tf.nn.tanh(y)
        x = tf.nn.max_pool2d(x, [2, 1], [2, 1], "SAME")
        x = tf.nn.relu(tf.nn.conv2d(x, self.point, 1, "SAME"))
        x = tf.nn.avg_pool2d(x, 3, 2, "SAME")
        x = tf.concat([tf.reduce_mean(x, [1, 2]), tf.reduce_max(x, [1, 2])], -1)
        return tf.nn.softmax(tf.linalg.matmul(x, self.dense) + self.dense_bias)


class Spectrum(tf.Module):
    """A log-mel front end and a detector, with the arithmetic of taggers."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(1)
        self.mel = tf.signal.linear_to_mel_weight_matrix(10, 65, 8000, 100, 3900)
        self.mean = normal(rng, 10)
        self.scale = tf.constant(rng.uniform(0.5, 2.0, 10), tf.float32)
        self.attention = normal(rng, 10, 10)
        self.dense = normal(rng, 20, 1)

    @tf.function(input_signature=[tf.TensorSpec([1, NUM_SAMPLES])])
    def __call__(self, x):
        spectrum = tf.abs(tf.signal.stft(x, 128, 64))
        x = tf.math.log(tf.maximum(tf.linalg.matmul(spectrum, self.mel), 1e-3))
        x = (x - self.mean) / self.scale
        keys = tf.linalg.matmul(x, self.attention)
        x = tf.linalg.matmul(tf.nn.softmax(tf.matmul(x, keys, transpose_b=True)), x)
        first, second = tf.split(x, 2, axis=-1)
        x = tf.concat([tf.sqrt(tf.square(first) + 0.1), tf.minimum(second, 1.0)], -1)
        x = x * tf.math.rsqrt(1.0 + tf.reduce_sum(tf.square(x), -1, keepdims=True))
        x = tf.transpose(x, [0, 2, 1])
        deviation = tf.math.squared_difference(x, tf.reduce_mean(x, -1, keepdims=True))
        x = tf.concat([tf.reduce_mean(x, -1), tf.reduce_mean(deviation, -1)], -1)
        return tf.sigmoid(tf.linalg.matmul(x, self.dense))


class Mfcc(tf.Module):
    """TensorFlow's MFCC as custom operations."""

    def __init__(self):
        super().__init__()
        self.dense = normal(np.random.default_rng(2), 70, NUM_CLASSES)

    @tf.function(input_signature=[tf.TensorSpec([NUM_SAMPLES, 1])])
    def __call__(self, x):
        power = tf.raw_ops.AudioSpectrogram(
            input=x, window_size=160, stride=80, magnitude_squared=True
        )
        x = tf.raw_ops.Mfcc(
            spectrogram=power,
            sample_rate=8000,
            lower_frequency_limit=20.0,
            upper_frequency_limit=4000.0,
            filterbank_channel_count=12,
            dct_coefficient_count=10,
        )
        x = tf.reshape(x, [1, 70])
        return tf.linalg.matmul(x / 10.0, self.dense)


class Streaming(tf.Module):
    """Two layers that keep what they need of the chunks before."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(3)
        self.kernel = normal(rng, 3, 20, 8)
        self.recurrent = normal(rng, 8, 8)
        self.dense = 3.0 * normal(rng, 8, 1)
        self.rows = tf.Variable(tf.zeros([1, 2, 20]), name="rows")
        self.hidden = tf.Variable(tf.zeros([1, 8]), name="hidden")

    @tf.function(input_signature=[tf.TensorSpec([1, CHUNK])])
    def __call__(self, x):
        x = tf.concat([self.rows, tf.reshape(x, [1, 8, 20])], 1)
        self.rows.assign(x[:, -2:])
        x = tf.reduce_mean(tf.nn.relu(tf.nn.conv1d(x, self.kernel, 1, "VALID")), 1)
        hidden = tf.tanh(2.0 * x + tf.linalg.matmul(self.hidden, self.recurrent))
        self.hidden.assign(hidden)
        return tf.sigmoid(tf.linalg.matmul(hidden, self.dense) - 0.5)


class Unknown(tf.Module):
    """Operations that no audio classifier has."""

    @tf.function(input_signature=[tf.TensorSpec([1, NUM_SAMPLES])])
    def __call__(self, x):
        x = tf.math.atan2(x, tf.math.ceil(x))
        return tf.cast(tf.argmax(x[:, :2]), tf.float32)


def convert(module, **settings):
    function = module.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


def clips(num_clips=100):
    rng = np.random.default_rng(4)
    levels = np.exp(rng.uniform(-4.0, 0.0, num_clips))
    for level in levels:
        noise = level * rng.standard_normal((1, NUM_SAMPLES))
        yield [np.clip(noise, -1.0, 1.0).astype(np.float32)]


def main():
    default = [tf.lite.Optimize.DEFAULT]
    int8 = {
        "optimizations": default,
        "representative_dataset": clips,
        "inference_input_type": tf.int8,
        "inference_output_type": tf.int8,
    }
    files = {
        "layers_float32": (Layers(), {}),
        "layers_float16": (
            Layers(),
            {"optimizations": default, "target_spec.supported_types": [tf.float16]},
        ),
        "layers_dynamic": (Layers(), {"optimizations": default}),
        "layers_int8": (Layers(), int8),
        "spectrum": (Spectrum(), {}),
        "mfcc": (Mfcc(), {"allow_custom_ops": True}),
        "streaming": (Streaming(), {"experimental_enable_resource_variables": True}),
        "unknown": (Unknown(), {}),
    }
    for name, (module, settings) in files.items():
        types = settings.pop("target_spec.supported_types", [])
        spec = tf.lite.TargetSpec(supported_types=types)
        content = convert(module, target_spec=spec, **settings)
        (FOLDER / f"{name}.tflite").write_bytes(content)
        print(f"{name}: {len(content)} bytes")


if __name__ == "__main__":
    main()
