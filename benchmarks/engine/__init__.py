"""What reading takes on one card: stock transformers beside medvl's engine, and both beside what the card can do."""
