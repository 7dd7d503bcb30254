"""A small shop's inventory: items, stock movements and a report."""

import csv
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Item:
    """Something the shop sells."""

    name: str
    price: float
    quantity: int = 0
    tags: list[str] = field(default_factory=list)

    @property
    def total_value(self) -> float:
        """What the stock of this item is worth."""
        return self.price * self.quantity


class OutOfStockError(Exception):
    """There is less of an item than was asked for."""


class Inventory:
    """All items of the shop, by name."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}

    def add(self, item: Item) -> None:
        """Take in a new item."""
        if item.name in self.items:
            raise ValueError(f"{item.name} is already in the inventory")
        self.items[item.name] = item

    def remove(self, name: str, quantity: int) -> None:
        """Take some of an item out of the stock."""
        item = self.items[name]
        if item.quantity < quantity:
            raise OutOfStockError(f"only {item.quantity} of {item.name} left")
        item.quantity -= quantity

    def total_value(self) -> float:
        """What the whole stock is worth."""
        return sum(item.total_value for item in self.items.values())

    def by_tag(self) -> dict[str, list[Item]]:
        """Group the items by tag."""
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in self.items.values():
            for tag in item.tags:
                groups[tag].append(item)
        return groups

    def save(self, path: Path) -> None:
        """Write names and prices as JSON."""
        rows = [{"name": item.name, "price": item.price} for item in self.items.values()]
        with path.open("w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)


def load_csv(path: Path) -> Inventory:
    """Read an inventory from a CSV file with the columns name, price and quantity."""
    inventory = Inventory()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            item = Item(row["name"], float(row["price"]), int(row["quantity"]))
            inventory.add(item)
    return inventory
