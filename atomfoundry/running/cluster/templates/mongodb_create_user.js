// Runs once, when the server starts on an empty volume: the user that Atomfoundry's workers are.
const name = process.env.ATOMFOUNDRY_DATABASE;
db.getSiblingDB(name).createUser({
  user: process.env.ATOMFOUNDRY_USER,
  pwd: process.env.ATOMFOUNDRY_PASSWORD,
  roles: [{ role: "readWrite", db: name }],
});
