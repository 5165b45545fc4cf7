"""A MONAI Label app: classify, label, fine-tune, pre-train and choose the next study, on MONAI Label's server.

Readers give classes in `form`, a page beside it.

`app`, `datastore`, `tasks` and `server` import MONAI Label and load only in its environment (`make label-env`). The
other modules run wherever the package does. The user's page is docs/monai_label.md.
"""
