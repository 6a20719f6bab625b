"""A new head for a pretrained ResNet-18."""

import argparse

import torch
import torch.nn as nn
import torch.utils.data as data
import torchvision.models as models
from cifar100_utils import get_test_set, get_train_validation_set
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


def get_model(num_classes=100):
    model = models.resnet18(weights=models.ResNet18_Weights.IMAGENET1K_V1)
    for param in model.parameters():
        param.requires_grad = False
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    nn.init.normal_(model.fc.weight, mean=0.0, std=0.01)
    nn.init.zeros_(model.fc.bias)
    return model


def train_model(model, lr, batch_size, epochs, data_dir, checkpoint_name, device, augmentation_name=None):
    train_set, val_set = get_train_validation_set(data_dir, augmentation_name=augmentation_name)
    train_loader = data.DataLoader(train_set, batch_size=batch_size, shuffle=True, num_workers=4)
    val_loader = data.DataLoader(val_set, batch_size=batch_size, num_workers=4)
    writer = SummaryWriter("runs/")
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=lr)
    loss_module = nn.CrossEntropyLoss()

    best_accuracy = -1.0
    for epoch in range(epochs):
        model.train()
        for images, labels in tqdm(train_loader):
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = loss_module(model(images), labels)
            loss.backward()
            optimizer.step()
        accuracy = evaluate_model(model, val_loader, device)
        writer.add_scalar("val", accuracy, epoch)
        print(f"epoch {epoch}: {accuracy}")
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            torch.save(model.state_dict(), checkpoint_name)

    model.load_state_dict(torch.load(checkpoint_name))
    return model


def evaluate_model(model, data_loader, device):
    model.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for images, labels in data_loader:
            images, labels = images.to(device), labels.to(device)
            correct += (model(images).argmax(dim=1) == labels).sum().item()
            total += len(labels)
    return correct / total


def main(lr, batch_size, epochs, data_dir, seed, augmentation_name, test_noise):
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = train_model(get_model().to(device), lr, batch_size, epochs, data_dir, "best.pt", device, augmentation_name)
    loader = data.DataLoader(get_test_set(data_dir, test_noise), batch_size=batch_size)
    print("test accuracy", evaluate_model(model, loader, device))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", default=0.001, type=float)
    parser.add_argument("--batch_size", default=128, type=int)
    parser.add_argument("--epochs", default=30, type=int)
    parser.add_argument("--seed", default=123, type=int)
    parser.add_argument("--data_dir", default="data/", type=str)
    parser.add_argument("--augmentation_name", default=None, type=str)
    parser.add_argument("--test_noise", default=False, action="store_true")
    main(**vars(parser.parse_args()))
