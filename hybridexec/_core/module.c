/* The module hybridexec._core.compiled.
 *
 * What it keeps is kept once for the process, in static variables: LWPs are threads of one interpreter.
 */
#include "core.h"

#include <time.h>

double now(void)
{
    struct timespec time;
#ifdef __APPLE__
    clock_gettime(CLOCK_UPTIME_RAW, &time);
#else
    clock_gettime(CLOCK_MONOTONIC, &time);
#endif
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

PyObject *call_super(PyTypeObject *type, PyObject *self, PyObject *name, PyObject *const *args, Py_ssize_t count,
                     PyObject *kwnames)
{
    PyObject *super = PyObject_CallFunctionObjArgs((PyObject *)&PySuper_Type, type, self, NULL);
    if (super == NULL)
        return NULL;
    PyObject *method = PyObject_GetAttr(super, name), *result = NULL;
    Py_DECREF(super);
    if (method != NULL) {
        result = PyObject_Vectorcall(method, args, (size_t)count, kwnames);
        Py_DECREF(method);
    }
    return result;
}

int drop(PyObject *result)
{
    if (result == NULL)
        return -1;
    Py_DECREF(result);
    return 0;
}

int truth(PyObject *result)
{
    if (result == NULL)
        return -1;
    int is = PyObject_IsTrue(result);
    Py_DECREF(result);
    return is;
}

int is_attribute(PyObject *object, PyObject *name, PyObject *value)
{
    PyObject *found = PyObject_GetAttr(object, name);
    Py_XDECREF(found); /* only its identity is looked at */
    return found == NULL ? -1 : found == value;
}

int is_false_attribute(PyObject *object, PyObject *name)
{
    PyObject *found = PyObject_GetAttr(object, name);
    int is = found == NULL ? -1 : PyObject_Not(found);
    Py_XDECREF(found);
    return is;
}

void raise_again(PyObject *aside)
{
    PyObject *since = PyErr_GetRaisedException();
    if (since == NULL)
        PyErr_SetRaisedException(aside);
    else {
        if (aside != NULL)
            PyException_SetContext(since, aside);
        PyErr_SetRaisedException(since);
    }
}

int intern(const Name *names)
{
    for (; names->text != NULL; names++)
        if ((*names->string = PyUnicode_InternFromString(names->text)) == NULL)
            return -1;
    return 0;
}

PyTypeObject *add_type(PyObject *module, PyType_Spec *spec, PyObject *base)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, base);
    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static int execute(PyObject *module)
{
    static int (*const parts[])(PyObject *) = {
        ring_exec, timers_exec, handle_exec, fields_exec, loop_exec,  batch_exec,      after_step_exec, turns_exec,
        poll_exec, stream_exec, mutex_exec,  moves_exec,  tally_exec, following_exec, calls_exec,
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i](module) < 0)
            return -1;
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "hybridexec._core.compiled",
    .m_doc = "The compiled core.",
    .m_size = 0,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_compiled(void)
{
    return PyModuleDef_Init(&definition);
}
