mod evaluation;
mod files;
mod online;
mod store_form;
