"""The recipe notebooks live in nbs/recipes; a wheel carries a copy inside the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies nbs/recipes/*.ipynb to cookbook/recipe_notebooks/ in what is built."""

    def run(self) -> None:
        """Build, then copy; an editable install reads the notebooks where they are."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "cookbook", "recipe_notebooks")
        for notebook in self.notebooks():
            self.mkpath(str(target))
            self.copy_file(str(notebook), str(target / notebook.name))

    def notebooks(self) -> list[Path]:
        """The recipes, without drafts."""
        return sorted(p for p in Path("nbs", "recipes").glob("*.ipynb") if p.name[0] not in "._")

    def get_source_files(self) -> list[str]:
        """An sdist carries them too."""
        return [*super().get_source_files(), *map(str, self.notebooks())]


setup(cmdclass={"build_py": BuildWithRecipes})
