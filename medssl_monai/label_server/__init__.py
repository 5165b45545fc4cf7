"""A MONAI Label app: classify, label, fine-tune, pre-train and choose the next study, on the stock server.

`app`, `datastore`, `tasks` and `server` import MONAI Label and load only in its environment (`make label-env`); all
else here is plain and runs wherever the package does. docs/monai_label.md is the user's page.
"""
