"""BackupIQ: backups that know what they hold and heal themselves."""

__version__ = "0.1.0"
