import pytest
import torch

from jpllm.models.evaluating import evaluating


@pytest.fixture(params=[True, False])
def model(request):
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)).train(request.param)


def test_no_dropout_and_no_gradients(model):
    was_training = model.training
    with evaluating(model, torch.autocast("cpu", torch.bfloat16)):
        output = model(torch.ones(1, 2))
        assert (model[1].training, output.requires_grad, output.dtype) == (False, False, torch.bfloat16)
    assert model[1].training == was_training
    assert model(torch.ones(1, 2)).requires_grad


def test_the_mode_comes_back_after_an_error(model):
    was_training = model.training
    with pytest.raises(RuntimeError), evaluating(model):
        model(torch.ones(1, 3))
    assert model[1].training == was_training
