"""Who answers: Triton as a supervised process, its onnxruntime backend, the in-process engine."""
