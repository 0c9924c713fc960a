/* The compiled calls of a message, and nothing else: what `_sodium.Calls` lists, without an interpreter in between.

   It has no cryptography of its own and links none. It calls the libsodium that PyNaCl has loaded, at the addresses that
   PyNaCl's handle gives, which `bind` is told once; `build.py` tells them, and has seen that each is of the type below.

   One rule holds its memory: a call is made here only with plain bytes (`bytes` itself, no subclass) of the right
   lengths, which cannot change or move while they are read. Whatever else comes is given to the pure function of the
   same name, which answers or refuses as it does in the pure build. What is written to is new, and known to nobody else
   until it is returned. No key is copied: each is read where it lies. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { KEY = 32, NONCE = 24, TAG = 16, SIGNATURE = 64, SIGNING_KEY = 64, HASH_MAX = 64, LABEL_MAX = 16 };

/* From this size on a call takes long enough that other threads should run meanwhile. */
enum { LARGE = 65536 };

typedef unsigned char byte;
typedef unsigned long long size;

/* In the order of `_sodium.Calls`. */
enum call { SECRETBOX, SECRETBOX_OPEN, SCALARMULT, SCALARMULT_BASE, SIGN, SIGN_OPEN, KDF, CALLS };

typedef struct {
    PyObject *pure[CALLS];
    int (*secretbox)(byte *, const byte *, size, const byte *, const byte *);
    int (*secretbox_open)(byte *, const byte *, size, const byte *, const byte *);
    int (*scalarmult)(byte *, const byte *, const byte *);
    int (*scalarmult_base)(byte *, const byte *);
    int (*sign)(byte *, size *, const byte *, size, const byte *);
    int (*sign_open)(byte *, size *, const byte *, size, const byte *);
    int (*hash)(byte *, size_t, const byte *, size, const byte *, size_t, const byte *, const byte *);
} state;

static state *state_of(PyObject *module) { return PyModule_GetState(module); }

/* Say whether this is `bytes` of `wanted` bytes; of any number below what a sum with a tag could overflow, if < 0. */
static int is_bytes(PyObject *given, Py_ssize_t wanted) {
    if (!PyBytes_CheckExact(given)) return 0;
    Py_ssize_t length = PyBytes_Size(given);
    return wanted < 0 ? length <= PY_SSIZE_T_MAX - SIGNATURE : length == wanted;
}

static const byte *bytes_of(PyObject *given) { return (const byte *)PyBytes_AsString(given); }

static byte *new_bytes(PyObject **made, Py_ssize_t length) {
    *made = PyBytes_FromStringAndSize(NULL, length);
    return *made == NULL ? NULL : (byte *)PyBytes_AsString(*made);
}

static PyObject *nothing(PyObject *made) {
    Py_XDECREF(made);
    Py_RETURN_NONE;
}

static PyObject *by_pure(PyObject *module, enum call which, PyObject *const *args, Py_ssize_t count) {
    PyObject *pure = state_of(module)->pure[which];
    if (pure == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the compiled calls are not bound");
        return NULL;
    }
    PyObject *given = PyTuple_New(count);
    if (given == NULL) return NULL;
    for (Py_ssize_t at = 0; at < count; at++) PyTuple_SetItem(given, at, Py_NewRef(args[at]));
    PyObject *answer = PyObject_CallObject(pure, given);
    Py_DECREF(given);
    return answer;
}

static int is_bound(PyObject *module) { return state_of(module)->pure[KDF] != NULL; }

static PyObject *secretbox(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound(module) || count != 3 || !is_bytes(args[0], -1) || !is_bytes(args[1], NONCE) || !is_bytes(args[2], KEY))
        return by_pure(module, SECRETBOX, args, count);
    PyObject *made;
    Py_ssize_t length = PyBytes_Size(args[0]);
    byte *box = new_bytes(&made, length + TAG);
    if (box == NULL) return NULL;
    int (*call)(byte *, const byte *, size, const byte *, const byte *) = state_of(module)->secretbox;
    const byte *message = bytes_of(args[0]), *nonce = bytes_of(args[1]), *key = bytes_of(args[2]);
    PyThreadState *thread = length < LARGE ? NULL : PyEval_SaveThread();
    int status = call(box, message, (size)length, nonce, key);
    if (thread != NULL) PyEval_RestoreThread(thread);
    if (status == 0) return made;
    Py_DECREF(made);
    return by_pure(module, SECRETBOX, args, count);
}

/* The box may be the end of a longer message, from `start` on: a megabyte is not to be copied to be read. */
static PyObject *secretbox_open(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Py_ssize_t start = count == 4 && PyLong_CheckExact(args[3]) ? PyLong_AsSsize_t(args[3]) : count == 3 ? 0 : -1;
    if (start < 0) PyErr_Clear(); /* too large a number, which the pure function may judge */
    if (!is_bound(module) || start < 0 || !is_bytes(args[0], -1) || !is_bytes(args[1], NONCE) || !is_bytes(args[2], KEY))
        return by_pure(module, SECRETBOX_OPEN, args, count);
    PyObject *made;
    Py_ssize_t whole = PyBytes_Size(args[0]);
    if (whole - start < TAG) return nothing(NULL);
    Py_ssize_t length = whole - start;
    byte *opened = new_bytes(&made, length - TAG);
    if (opened == NULL) return NULL;
    int (*call)(byte *, const byte *, size, const byte *, const byte *) = state_of(module)->secretbox_open;
    const byte *box = bytes_of(args[0]) + start, *nonce = bytes_of(args[1]), *key = bytes_of(args[2]);
    PyThreadState *thread = length < LARGE ? NULL : PyEval_SaveThread();
    int status = call(opened, box, (size)length, nonce, key);
    if (thread != NULL) PyEval_RestoreThread(thread);
    return status == 0 ? made : nothing(made);
}

static PyObject *scalarmult(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound(module) || count != 2 || !is_bytes(args[0], KEY) || !is_bytes(args[1], KEY))
        return by_pure(module, SCALARMULT, args, count);
    PyObject *made;
    byte *product = new_bytes(&made, KEY);
    if (product == NULL) return NULL;
    int status = state_of(module)->scalarmult(product, bytes_of(args[0]), bytes_of(args[1]));
    return status == 0 ? made : nothing(made);
}

static PyObject *scalarmult_base(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound(module) || count != 1 || !is_bytes(args[0], KEY))
        return by_pure(module, SCALARMULT_BASE, args, count);
    PyObject *made;
    byte *product = new_bytes(&made, KEY);
    if (product == NULL) return NULL;
    int status = state_of(module)->scalarmult_base(product, bytes_of(args[0]));
    return status == 0 ? made : nothing(made);
}

static PyObject *sign(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound(module) || count != 2 || !is_bytes(args[0], -1) || !is_bytes(args[1], SIGNING_KEY))
        return by_pure(module, SIGN, args, count);
    Py_ssize_t length = PyBytes_Size(args[0]);
    byte *signature_and_message = PyMem_Malloc((size_t)length + SIGNATURE);
    if (signature_and_message == NULL) return PyErr_NoMemory();
    int status = state_of(module)->sign(signature_and_message, NULL, bytes_of(args[0]), (size)length, bytes_of(args[1]));
    PyObject *made = NULL;
    if (status == 0) made = PyBytes_FromStringAndSize((const char *)signature_and_message, SIGNATURE);
    PyMem_Free(signature_and_message);
    return status == 0 ? made : nothing(made);
}

static PyObject *sign_open(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound(module) || count != 2 || !is_bytes(args[0], -1) || !is_bytes(args[1], KEY))
        return by_pure(module, SIGN_OPEN, args, count);
    int status = state_of(module)->sign_open(NULL, NULL, bytes_of(args[0]), (size)PyBytes_Size(args[0]), bytes_of(args[1]));
    return status == 0 ? Py_NewRef(args[0]) : nothing(NULL);
}

static PyObject *kdf(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound(module) || count != 4 || !is_bytes(args[0], -1) || !is_bytes(args[1], -1) || !is_bytes(args[2], -1) ||
        !PyLong_CheckExact(args[3]) || PyBytes_Size(args[0]) > HASH_MAX || PyBytes_Size(args[1]) > LABEL_MAX)
        return by_pure(module, KDF, args, count);
    int overflow;
    long wanted = PyLong_AsLongAndOverflow(args[3], &overflow); /* -1 for what is too large */
    if (wanted < 1 || wanted > HASH_MAX) return by_pure(module, KDF, args, count);
    PyObject *made;
    byte *digest = new_bytes(&made, wanted);
    if (digest == NULL) return NULL;
    byte label[LABEL_MAX] = {0};
    memcpy(label, bytes_of(args[1]), (size_t)PyBytes_Size(args[1]));
    size_t key_length = (size_t)PyBytes_Size(args[0]);
    Py_ssize_t length = PyBytes_Size(args[2]);
    const byte *key = key_length == 0 ? NULL : bytes_of(args[0]), *data = bytes_of(args[2]);
    int (*call)(byte *, size_t, const byte *, size, const byte *, size_t, const byte *, const byte *) = state_of(module)->hash;
    PyThreadState *thread = length < LARGE ? NULL : PyEval_SaveThread();
    int status = call(digest, (size_t)wanted, data, (size)length, key, key_length, NULL, label);
    if (thread != NULL) PyEval_RestoreThread(thread);
    if (status == 0) return made;
    Py_DECREF(made);
    return by_pure(module, KDF, args, count);
}

/* Whose addresses `bind` is to be told, in the order of `Calls`: a build of another release could have others. */
static const char FUNCTIONS[] =
    "crypto_secretbox_easy crypto_secretbox_open_easy crypto_scalarmult crypto_scalarmult_base crypto_sign "
    "crypto_sign_open crypto_generichash_blake2b_salt_personal";

static int is_functions(PyObject *given) {
    Py_ssize_t length = 0;
    const char *text = PyUnicode_Check(given) ? PyUnicode_AsUTF8AndSize(given, &length) : NULL;
    PyErr_Clear(); /* of a text that has no UTF-8 */
    return text != NULL && length == (Py_ssize_t)sizeof FUNCTIONS - 1 && memcmp(text, FUNCTIONS, (size_t)length) == 0;
}

/* Take (names, addresses, pure functions): `FUNCTIONS`, and two tuples in its order; once. */
static PyObject *bind(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    state *to = state_of(module);
    void *addresses[CALLS];
    if (count != 3 || !is_functions(args[0]) || !PyTuple_CheckExact(args[1]) || !PyTuple_CheckExact(args[2]) ||
        PyTuple_Size(args[1]) != CALLS || PyTuple_Size(args[2]) != CALLS) {
        PyErr_SetString(PyExc_TypeError, "bind takes the names of its functions, their addresses, and functions");
        return NULL;
    }
    if (is_bound(module)) {
        PyErr_SetString(PyExc_RuntimeError, "the compiled calls are bound already");
        return NULL;
    }
    for (int at = 0; at < CALLS; at++) {
        PyObject *address = PyTuple_GetItem(args[1], at);
        addresses[at] = PyLong_CheckExact(address) ? PyLong_AsVoidPtr(address) : NULL;
        if (addresses[at] == NULL || !PyCallable_Check(PyTuple_GetItem(args[2], at))) {
            PyErr_SetString(PyExc_TypeError, "no address, or no function");
            return NULL;
        }
    }
    memcpy(&to->secretbox, &addresses[SECRETBOX], sizeof(void *));
    memcpy(&to->secretbox_open, &addresses[SECRETBOX_OPEN], sizeof(void *));
    memcpy(&to->scalarmult, &addresses[SCALARMULT], sizeof(void *));
    memcpy(&to->scalarmult_base, &addresses[SCALARMULT_BASE], sizeof(void *));
    memcpy(&to->sign, &addresses[SIGN], sizeof(void *));
    memcpy(&to->sign_open, &addresses[SIGN_OPEN], sizeof(void *));
    memcpy(&to->hash, &addresses[KDF], sizeof(void *));
    for (int at = 0; at < CALLS; at++) to->pure[at] = Py_NewRef(PyTuple_GetItem(args[2], at));
    Py_RETURN_NONE;
}

#define CALL(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {CALL(secretbox), CALL(secretbox_open), CALL(scalarmult), CALL(scalarmult_base),
                                CALL(sign),      CALL(sign_open),      CALL(kdf),        CALL(bind),
                                {NULL, NULL, 0, NULL}};

static int traverse(PyObject *module, visitproc visit, void *arg) {
    state *held = state_of(module);
    for (int at = 0; held != NULL && at < CALLS; at++) Py_VISIT(held->pure[at]);
    return 0;
}

static int clear(PyObject *module) {
    state *held = state_of(module);
    for (int at = 0; held != NULL && at < CALLS; at++) Py_CLEAR(held->pure[at]);
    return 0;
}

static void release(void *module) { clear(module); }

static PyModuleDef_Slot slots[] = {{0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "agentmesh.primitives._fast",
                                 "The compiled calls of a message; see build.py.", sizeof(state), methods, slots,
                                 traverse, clear, release};

PyMODINIT_FUNC PyInit__fast(void) { return PyModuleDef_Init(&definition); }
