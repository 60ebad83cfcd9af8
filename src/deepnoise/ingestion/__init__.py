"""Ingestion: raw tables and images to validated wells, packed sites, findings, a design audit and folds."""
